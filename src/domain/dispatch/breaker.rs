//! The circuit breaker of one endpoint: after failures in a row it is skipped for a while, then tried with one request, and
//! skipped for longer if that fails, too.

use std::time::Duration;

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
    /// One at a time, after it was skipped for so long.
    Trial { skip: Duration },
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

    /// Tells whether an endpoint with so many requests in flight gets no more.
    pub fn skips(self, in_flight: u32) -> bool {
        match self {
            Breaker::Closed { .. } => false,
            Breaker::Open { .. } => true,
            Breaker::Trial { .. } => in_flight > 0,
        }
    }

    /// Learns how a request ended. Closed -> open after failures in a row; trial -> open, for longer, if it fails; any ->
    /// closed once a request succeeds.
    #[must_use]
    pub fn ended(self, now: Moment, outcome: &Outcome) -> Self {
        let is_failure = match outcome {
            Outcome::Succeeded { .. } => return Breaker::default(),
            Outcome::Failed(failure) => failure.blames_endpoint(),
            Outcome::Abandoned => false,
        };
        if !is_failure {
            return self;
        }
        let open = |skip: Duration| Breaker::Open { until: now.after(skip), skip };
        match self {
            Breaker::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => {
                Breaker::Closed { failures: failures + 1 }
            }
            Breaker::Closed { .. } => open(SKIP_MIN),
            Breaker::Open { .. } => self,
            Breaker::Trial { skip } => open((skip * 2).min(SKIP_MAX)),
        }
    }

    /// Learns that time has passed. Open -> trial.
    #[must_use]
    pub fn waited(self, now: Moment) -> Self {
        match self {
            Breaker::Open { until, skip } if until <= now => Breaker::Trial { skip },
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

    fn failed(breaker: Breaker, now: u64) -> Breaker {
        breaker.ended(at(now), &Outcome::Failed(Failure::Status(500)))
    }

    #[test]
    fn three_failures_in_a_row_open_it_for_longer_each_time() {
        let mut breaker = Breaker::default();
        for now in [0, 0, 7] {
            assert!(breaker.is_closed() && !breaker.skips(9));
            breaker = failed(breaker, now);
        }
        let mut now = 7;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker, Breaker::Open { until: at(now + expected), skip: Duration::from_secs(expected) });
            assert!(breaker.skips(0));
            assert_eq!(failed(breaker, now), breaker, "one that was on its way");
            assert_eq!(breaker.waited(at(now + expected - 1)), breaker);
            now += expected;
            let trial = breaker.waited(at(now));
            assert_eq!((trial.skips(0), trial.skips(1), trial.is_closed()), (false, true, false));
            assert_eq!(trial.ended(at(now), &Outcome::Abandoned), trial, "nothing was learnt");
            assert_eq!(trial.ended(at(now), &Outcome::Succeeded { tokens: None }), Breaker::default());
            breaker = failed(trial, now);
        }
    }

    #[test]
    fn a_success_starts_the_count_again_and_a_blameless_failure_does_not_count() {
        let mut breaker = failed(failed(Breaker::default(), 0), 0);
        assert_eq!(breaker.ended(at(0), &Outcome::Failed(Failure::Status(404))), breaker);
        assert_eq!(breaker.ended(at(0), &Outcome::Abandoned), breaker);
        breaker = breaker.ended(at(0), &Outcome::Succeeded { tokens: None });
        assert!(failed(failed(breaker, 0), 0).is_closed());
    }
}
