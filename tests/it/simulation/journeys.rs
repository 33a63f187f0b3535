//! What becomes of each request: its attempts one after the other, and its one end.

use std::collections::BTreeMap;
use std::sync::Arc;

use leaseway::domain::attempts::{Attempts, Conclusion, FailedAttempt, Next};
use leaseway::domain::blame::Sign;
use leaseway::domain::dispatch::Grant;
use leaseway::domain::ids::{EndpointId, LeaseId, RequestId};
use leaseway::domain::request::{EndedLease, Failure, LeaseRequest, Outcome, Refusal};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;

/// An endpoint's answer that was held back, by the endpoint's name.
pub type Held = String;

/// One request from its arrival to its end.
struct Journey {
    /// `None` once nothing more can follow.
    attempts: Option<Attempts<Held>>,
    max_attempts: usize,
    /// The endpoints that it had a lease on, in order.
    visited: Vec<EndpointId>,
    has_lease: bool,
    has_ended: bool,
    /// The attempts that were answered with 500 or above.
    errors: Vec<Attempt>,
}

/// A lease that has ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub target: Arc<Target>,
    pub lease: LeaseId,
    pub granted: Moment,
    pub ended: Moment,
    pub outcome: Outcome,
}

impl Journey {
    /// Returns the only attempt that was answered with 500 or above, if it may have been its endpoint's fault.
    fn open(&self) -> Option<Attempt> {
        match &self.errors[..] {
            [only] if only.outcome != Outcome::Failed(Failure::Status(501)) => Some(only.clone()),
            _ => None,
        }
    }

    fn end(&mut self) {
        assert!(!std::mem::replace(&mut self.has_ended, true), "a request ends twice");
    }
}

/// All requests there ever were.
#[derive(Default)]
pub struct Journeys {
    by_id: BTreeMap<String, Journey>,
    ended: usize,
}

impl Journeys {
    /// Begins a request that may be tried on `max_attempts` endpoints, and returns its id.
    pub fn begin(&mut self, max_attempts: usize) -> RequestId {
        let id = self.by_id.len().to_string();
        let attempts = Some(Attempts::new(max_attempts));
        let journey = Journey {
            attempts,
            max_attempts,
            visited: Vec::new(),
            has_lease: false,
            has_ended: false,
            errors: Vec::new(),
        };
        self.by_id.insert(id.clone(), journey);
        RequestId::from(id.as_str())
    }

    /// Takes note of a lease: the only one of its request, on an endpoint that the request was not on before.
    pub fn granted(&mut self, request: &LeaseRequest, grant: &Grant) {
        let journey = self.journey(request);
        assert!(!journey.has_lease, "two leases at once for {request:?}");
        assert!(!journey.visited.contains(&grant.target.id), "{request:?} is on the same endpoint again");
        assert_eq!(journey.visited, request.tried, "a retry knows where it was");
        journey.has_lease = true;
        journey.visited.push(grant.target.id);
        assert!(journey.visited.len() <= journey.max_attempts, "more attempts than allowed for {request:?}");
        let attempts = journey.attempts.as_mut().expect("a lease comes only to a request that goes on");
        attempts.begin(grant.queued.map(|queued| (queued, grant.waited)));
    }

    /// Decides whether another attempt follows one that failed before its first byte.
    pub fn goes_on(&mut self, request: &LeaseRequest, failed: FailedAttempt<Held>) -> bool {
        let journey = self.journey(request);
        assert!(journey.has_lease, "{request:?} has no lease");
        let next = journey.attempts.take().expect("it goes on").fail(failed);
        journey.attempts = match next {
            Next::Retry(attempts) => Some(attempts),
            Next::Conclude(_) => None,
        };
        journey.attempts.is_some()
    }

    /// Returns what the end of a lease says about its endpoint, and what it decides about the endpoint of an earlier attempt;
    /// `goes_on` if another attempt follows.
    pub fn judge(&mut self, request: &LeaseRequest, ended: &Attempt, goes_on: bool) -> (Sign, Option<(Attempt, Sign)>) {
        let journey = self.journey(request);
        let (open, is_first) = (journey.open(), journey.errors.is_empty());
        let (own, verdict) = match &ended.outcome {
            Outcome::Succeeded { .. } => (Sign::Good, Sign::Bad),
            Outcome::Abandoned => (Sign::Nothing, Sign::Nothing),
            Outcome::Failed(Failure::Status(status)) if *status >= 500 => {
                journey.errors.push(ended.clone());
                let own = match (*status, is_first, goes_on) {
                    (501, _, _) | (_, false, _) => Sign::Nothing,
                    (_, true, true) => Sign::Undecided,
                    (_, true, false) => Sign::Bad,
                };
                (own, Sign::Nothing)
            }
            Outcome::Failed(Failure::Status(429)) => (Sign::Busy, if goes_on { Sign::Undecided } else { Sign::Bad }),
            Outcome::Failed(Failure::Status(_)) => (Sign::Nothing, Sign::Nothing),
            Outcome::Failed(_) => (Sign::Bad, if goes_on { Sign::Undecided } else { Sign::Bad }),
        };
        (own, open.map(|attempt| (attempt, verdict)))
    }

    /// Returns the attempt whose endpoint is to blame if no other endpoint is left for the request.
    pub fn open(&mut self, request: &LeaseRequest) -> Option<Attempt> {
        self.journey(request).open()
    }

    /// Takes note of a lease that has ended, and its request with it if that is what the record says.
    pub fn lease_ended(&mut self, ended: &EndedLease) {
        let journey = self.journey(&ended.request);
        assert!(std::mem::take(&mut journey.has_lease), "a lease ends twice");
        assert_eq!(journey.visited.last(), Some(&ended.target.id));
        assert_eq!(journey.visited.len(), ended.request.attempt());
        if ended.is_final {
            journey.end();
            self.ended += 1;
        }
    }

    /// Takes note of a request that has ended without a lease.
    pub fn unserved(&mut self, request: &LeaseRequest) {
        let journey = self.journey(request);
        assert!(!journey.has_lease, "{request:?} has a lease");
        journey.end();
        self.ended += 1;
    }

    /// Takes note of a refusal, of which the client may be told only what is true of the request as a whole.
    pub fn refused(&mut self, request: &LeaseRequest, refusal: Refusal) {
        let journey = self.journey(request);
        let attempts = journey.attempts.take().expect("it goes on");
        let last = journey.visited.last().copied();
        let is_retry = last.is_some();
        let is_vain = matches!(refusal, Refusal::NothingUntried { .. });
        assert!(is_retry || !is_vain, "a first attempt is refused as a retry");
        match attempts.refuse(refusal) {
            Conclusion::Relay { endpoint, .. } | Conclusion::Fail { endpoint, .. } => {
                assert!(is_vain && Some(endpoint.id) == last, "the answer is not that of the last endpoint");
            }
            Conclusion::AllBusy { .. } => assert!(is_vain),
            Conclusion::Refuse(_) => assert!(!is_vain, "a request that was tried is refused as if it was not"),
        }
    }

    /// Returns how many requests have not ended.
    pub fn under_way(&self) -> usize {
        self.by_id.len() - self.ended
    }

    fn journey(&mut self, request: &LeaseRequest) -> &mut Journey {
        self.by_id.get_mut(request.id.as_str()).expect("every request is begun here")
    }
}
