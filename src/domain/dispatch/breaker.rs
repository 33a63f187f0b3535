//! The circuit breaker of one endpoint: after failures in a row it is skipped for a while, then tried with one request, and
//! skipped for longer if that fails, too.

use std::time::Duration;

use crate::domain::ids::LeaseId;
use crate::domain::request::Outcome;
use crate::domain::time::Moment;

/// Failures in a row that open a breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// How long it is open first; each further time twice as long.
const SKIP_MIN: Duration = Duration::from_secs(1);

/// How long it is open at most.
const SKIP_MAX: Duration = Duration::from_secs(60);

/// Whether an endpoint gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// As ever. It has failed so often in a row.
    Closed { failures: u32 },
    /// None until then.
    Open { until: Moment, skip: Duration },
    /// One, after it was skipped for so long: whose lease this is, once it is granted.
    Trial { skip: Duration, lease: Option<LeaseId> },
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::Closed { failures: 0 }
    }
}

impl Breaker {
    pub fn is_closed(self) -> bool {
        matches!(self, Breaker::Closed { .. })
    }

    /// Tells whether the endpoint gets no requests now.
    pub fn skips(self) -> bool {
        match self {
            Breaker::Closed { .. } | Breaker::Trial { lease: None, .. } => false,
            Breaker::Open { .. } | Breaker::Trial { lease: Some(_), .. } => true,
        }
    }

    /// Learns of a grant. The first one of a trial is what it is judged by.
    #[must_use]
    pub fn granted(self, lease: LeaseId) -> Self {
        match self {
            Breaker::Trial { skip, lease: None } => Breaker::Trial { skip, lease: Some(lease) },
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Trial { .. } => self,
        }
    }

    /// Learns how a lease ended. Closed -> open after failures in a row; trial -> open, for longer, if its lease fails; any
    /// -> closed once a request succeeds.
    #[must_use]
    pub fn ended(self, now: Moment, ended: LeaseId, outcome: &Outcome) -> Self {
        let is_failure = match outcome {
            Outcome::Succeeded { .. } => return Breaker::default(),
            Outcome::Failed(failure) => failure.blames_endpoint(),
            Outcome::Abandoned => false,
        };
        let open = |skip: Duration| Breaker::Open { until: now.after(skip), skip };
        match self {
            Breaker::Trial { lease: Some(lease), skip } if lease == ended && !is_failure => {
                Breaker::Trial { skip, lease: None }
            }
            Breaker::Trial { lease: Some(lease), skip } if lease == ended => open((skip * 2).min(SKIP_MAX)),
            _ if !is_failure => self,
            Breaker::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => {
                Breaker::Closed { failures: failures + 1 }
            }
            Breaker::Closed { .. } => open(SKIP_MIN),
            // Those were on their way.
            Breaker::Open { .. } | Breaker::Trial { .. } => self,
        }
    }

    /// Learns that time has passed. Open -> trial.
    #[must_use]
    pub fn waited(self, now: Moment) -> Self {
        match self {
            Breaker::Open { until, skip } if until <= now => Breaker::Trial { skip, lease: None },
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Trial { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::request::Failure;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    const TRIAL: LeaseId = LeaseId(1);
    const OTHER: LeaseId = LeaseId(2);

    fn failed(breaker: Breaker, now: u64, lease: LeaseId) -> Breaker {
        breaker.ended(at(now), lease, &Outcome::Failed(Failure::Status(500)))
    }

    #[test]
    fn three_failures_in_a_row_open_it_for_longer_each_time() {
        let mut breaker = Breaker::default();
        for now in [0, 0, 7] {
            assert!(breaker.is_closed() && !breaker.skips());
            breaker = failed(breaker, now, OTHER);
        }
        let mut now = 7;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker, Breaker::Open { until: at(now + expected), skip: Duration::from_secs(expected) });
            assert!(breaker.skips());
            assert_eq!(failed(breaker, now, OTHER), breaker, "one that was on its way");
            assert_eq!(breaker.waited(at(now + expected - 1)), breaker);
            now += expected;
            let ready = breaker.waited(at(now));
            let trial = ready.granted(TRIAL);
            assert_eq!((ready.skips(), trial.skips(), trial.is_closed()), (false, true, false));
            assert_eq!(trial.granted(OTHER), trial, "as a last resort");
            assert_eq!(failed(trial, now, OTHER), trial, "one that was on its way");
            assert_eq!(trial.ended(at(now), OTHER, &Outcome::Abandoned), trial);
            assert_eq!(trial.ended(at(now), TRIAL, &Outcome::Abandoned), ready, "nothing was learnt");
            assert_eq!(trial.ended(at(now), OTHER, &Outcome::Succeeded { tokens: None }), Breaker::default());
            breaker = failed(trial, now, TRIAL);
        }
    }

    #[test]
    fn a_success_starts_the_count_again_and_a_blameless_failure_does_not_count() {
        let twice = failed(failed(Breaker::default(), 0, OTHER), 0, OTHER);
        assert_eq!(twice.ended(at(0), OTHER, &Outcome::Failed(Failure::Status(404))), twice);
        assert_eq!(twice.ended(at(0), OTHER, &Outcome::Abandoned), twice);
        let well = twice.ended(at(0), OTHER, &Outcome::Succeeded { tokens: None });
        assert!(failed(failed(well, 0, OTHER), 0, OTHER).is_closed());
    }
}
