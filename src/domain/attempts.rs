//! The attempts of one request: which failed attempts are repeated on another endpoint, and what the client is answered
//! when no attempt is left.
//!
//! [`dispatch`](super::dispatch), which knows the endpoints already tried, decides which endpoint an attempt goes to.

use std::sync::Arc;
use std::time::Duration;

use super::dispatch::Queued;
use super::request::{Failure, Refusal};
use super::target::Target;

/// An attempt that failed before the client got the first byte of its answer. `A` is the type of an answer that was
/// held back.
#[derive(Debug)]
pub struct FailedAttempt<A> {
    /// The endpoint that failed.
    pub endpoint: Arc<Target>,
    /// Why the attempt failed.
    pub failure: Failure,
    /// The endpoint's answer, which was held back; `None` if the endpoint gave none.
    pub answer: Option<A>,
    /// The endpoint said that it has too much to do.
    pub is_busy: bool,
    /// How often the request was sent to the endpoint, at least once.
    pub executions: usize,
}

/// What is answered to the client of a request that no attempt has served.
#[derive(Debug)]
pub enum Conclusion<A> {
    /// The answer of the last endpoint that was tried.
    Relay {
        /// The endpoint that gave the answer.
        endpoint: Arc<Target>,
        /// The answer, which was held back.
        answer: A,
    },
    /// The last endpoint that was tried gave no answer.
    Fail {
        /// The endpoint that failed.
        endpoint: Arc<Target>,
        /// Why the attempt failed.
        failure: Failure,
    },
    /// Every endpoint that was tried says that it has too much to do, and no other endpoint is left. The attempts count as
    /// failed, the request not as refused.
    AllBusy {
        /// How long a new request would wait, in whole seconds; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
    },
    /// There is no lease for the request.
    Refuse(Refusal),
}

/// What follows a failed attempt.
#[derive(Debug)]
pub enum Next<A> {
    /// Another attempt, for which a lease is needed.
    Retry(Attempts<A>),
    /// The request ends with an answer, because such a failure is not tried again or no attempt is left.
    Conclude(Conclusion<A>),
}

/// One request's attempts so far.
#[derive(Debug)]
pub struct Attempts<A> {
    /// How often the request may be sent to endpoints in all, at least once.
    max: usize,
    /// How often the request was sent, the current attempt included.
    made: usize,
    /// The attempt that failed last.
    last: Option<FailedAttempt<A>>,
    /// Every endpoint so far said that it has too much to do.
    all_busy: bool,
    queued: Option<(Queued, Duration)>,
}

impl<A> Attempts<A> {
    /// Begins a request that may be sent `max` times in all, to one endpoint after the other.
    pub fn new(max: usize) -> Self {
        Self { max, made: 0, last: None, all_busy: true, queued: None }
    }

    /// Begins the next attempt, for which a lease was granted. `queued` is what the request was told and how long it
    /// waited; `None` if it did not wait.
    pub fn begin(&mut self, queued: Option<(Queued, Duration)>) {
        self.made += 1;
        if let Some((told, waited)) = queued {
            self.queued = Some(self.queued.map_or((told, waited), |(first, before)| (first, before + waited)));
        }
    }

    /// Returns how often the current attempt may send the request, at least once. The client gets the answer to the last
    /// sending, whatever its status is.
    pub fn executions_left(&self) -> usize {
        1 + self.max.saturating_sub(self.made)
    }

    /// Returns what the request was told when it first joined the line, and how long it has waited in total; `None` if
    /// it has never waited.
    pub fn queued(&self) -> Option<(Queued, Duration)> {
        self.queued
    }

    /// Decides what follows the failure of the attempt that has begun.
    pub fn fail(mut self, failed: FailedAttempt<A>) -> Next<A> {
        self.made += failed.executions - 1;
        if self.made >= self.max || !failed.failure.can_be_retried() {
            return Next::Conclude(failed.conclude());
        }
        self.all_busy &= failed.is_busy;
        self.last = Some(failed);
        Next::Retry(self)
    }

    /// Decides what is answered to a request that gets no lease for its next attempt. If every capable endpoint was
    /// tried, this is the answer of the last endpoint, or that all endpoints were busy.
    pub fn refuse(self, refusal: Refusal) -> Conclusion<A> {
        match (refusal, self.last) {
            (Refusal::NothingUntried { estimated_wait }, Some(_)) if self.all_busy => {
                Conclusion::AllBusy { estimated_wait }
            }
            (Refusal::NothingUntried { .. }, Some(last)) => last.conclude(),
            (Refusal::QueueTimeout { waited }, _) => {
                let before = self.queued.map_or(Duration::ZERO, |(_, before)| before);
                Conclusion::Refuse(Refusal::QueueTimeout { waited: before + waited })
            }
            (refusal, _) => Conclusion::Refuse(refusal),
        }
    }
}

impl<A> FailedAttempt<A> {
    fn conclude(self) -> Conclusion<A> {
        let Self { endpoint, failure, answer, .. } = self;
        match answer {
            Some(answer) => Conclusion::Relay { endpoint, answer },
            None => Conclusion::Fail { endpoint, failure },
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::endpoint::EndpointDefinition;
    use crate::domain::ids::EndpointId;

    const LOST: fn() -> Failure = || Failure::ConnectionLost("reset".to_owned());

    /// An attempt that failed on the endpoint of this number with, perhaps, an answer.
    fn failed(number: u128, failure: Failure, answer: Option<&'static str>) -> FailedAttempt<&'static str> {
        let definition = EndpointDefinition::new(number.to_string(), format!("http://{number}"));
        let endpoint = Arc::new(Target::new(EndpointId(Uuid::from_u128(number)), &definition));
        FailedAttempt { endpoint, is_busy: answer == Some("busy"), failure, answer, executions: 1 }
    }

    fn told(conclusion: Conclusion<&'static str>) -> String {
        match conclusion {
            Conclusion::Relay { endpoint, answer } => format!("relay {answer} of {}", endpoint.name),
            Conclusion::Fail { endpoint, failure } => format!("{} {failure}", endpoint.name),
            Conclusion::AllBusy { .. } => "all busy".to_owned(),
            Conclusion::Refuse(refusal) => format!("{refusal:?}"),
        }
    }

    /// Checks the answer to a request whose attempts fail with these failures, on endpoints 1, 2 and so on, and which
    /// then gets no lease.
    fn check(max: usize, failures: &[(Failure, Option<&'static str>)], refusal: Refusal, expected: &str) {
        let mut attempts = Attempts::new(max);
        for (number, (failure, answer)) in (1..).zip(failures) {
            attempts.begin(None);
            match attempts.fail(failed(number, failure.clone(), *answer)) {
                Next::Retry(next) => attempts = next,
                Next::Conclude(conclusion) => return assert_eq!(told(conclusion), expected),
            }
        }
        assert_eq!(told(attempts.refuse(refusal)), expected);
    }

    const NOTHING_UNTRIED: Refusal = Refusal::NothingUntried { estimated_wait: None };

    #[test]
    fn once_nothing_is_left_the_answer_is_what_the_last_endpoint_said_if_it_said_anything() {
        let status = |code, answer| (Failure::Status(code), Some(answer));
        check(3, &[], Refusal::ModelNotFound, "ModelNotFound");
        check(3, &[status(500, "a")], NOTHING_UNTRIED, "relay a of 1");
        check(3, &[status(500, "a"), status(502, "b")], NOTHING_UNTRIED, "relay b of 2");
        check(3, &[status(500, "a"), (LOST(), None)], NOTHING_UNTRIED, "2 connection lost: reset");
        check(3, &[(LOST(), None), status(500, "b")], NOTHING_UNTRIED, "relay b of 2");
        check(3, &[status(429, "busy"), status(503, "busy")], NOTHING_UNTRIED, "all busy");
        check(3, &[status(429, "busy"), status(500, "b")], NOTHING_UNTRIED, "relay b of 2");
        check(3, &[status(500, "a"), status(429, "busy")], NOTHING_UNTRIED, "relay busy of 2");
        check(3, &[status(500, "a")], Refusal::Draining, "Draining");
    }

    #[test]
    fn attempts_end_at_their_bound_and_with_a_failure_that_is_not_tried_again() {
        check(1, &[(LOST(), None)], NOTHING_UNTRIED, "1 connection lost: reset");
        check(2, &[(LOST(), None), (LOST(), None), (LOST(), None)], NOTHING_UNTRIED, "2 connection lost: reset");
        check(3, &[(Failure::FirstByteTimeout, None)], NOTHING_UNTRIED, "1 no first byte in time");
    }

    #[test]
    fn what_an_endpoint_is_sent_a_second_time_counts() {
        // How often each attempt sends the request, how often it may send it, and whether another attempt follows.
        let check = |max: usize, sent: &[usize], allowed: &[usize], goes_on: bool| {
            let mut attempts = Some(Attempts::new(max));
            for (executions, allowed) in sent.iter().zip(allowed) {
                let mut begun = attempts.take().expect("it goes on");
                begun.begin(None);
                assert_eq!(begun.executions_left(), *allowed, "{max} {sent:?}");
                let failed = FailedAttempt { executions: *executions, ..failed(1, LOST(), None) };
                if let Next::Retry(next) = begun.fail(failed) {
                    attempts = Some(next);
                }
            }
            assert_eq!(attempts.is_some(), goes_on, "{max} {sent:?}");
        };
        check(1, &[1], &[1], false);
        check(3, &[1, 1, 1], &[3, 2, 1], false);
        check(3, &[1, 1], &[3, 2], true);
        check(3, &[2, 1], &[3, 1], false);
        check(3, &[1, 2], &[3, 2], false);
        check(2, &[2], &[2], false);
        check(3, &[2], &[3], true);
    }

    #[test]
    fn waits_add_up_over_all_attempts() {
        let queued = |position| Queued { position, estimated_wait: None };
        let mut attempts = Attempts::new(3);
        attempts.begin(Some((queued(4), Duration::from_secs(3))));
        let Next::Retry(mut attempts) = attempts.fail(failed(1, LOST(), None)) else { panic!("it is tried again") };
        attempts.begin(Some((queued(1), Duration::from_secs(2))));
        assert_eq!(attempts.queued(), Some((queued(4), Duration::from_secs(5))));
        let Next::Retry(attempts) = attempts.fail(failed(2, LOST(), None)) else { panic!("it is tried again") };
        let refusal = Refusal::QueueTimeout { waited: Duration::from_secs(1) };
        assert_eq!(told(attempts.refuse(refusal)), "QueueTimeout { waited: 6s }");
    }
}
