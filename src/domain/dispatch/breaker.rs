//! The circuit breaker of one endpoint. After failures in a row the endpoint is skipped for a while and then tried with
//! one request. If that request fails, too, the endpoint is skipped for longer.
//!
//! The first byte of a good answer to the trial request closes the breaker, because the rest of a long answer may take
//! minutes. A good probe ends the skipping and begins the trial. A probe that directly follows a failure does not,
//! because otherwise an endpoint that fails every request and answers every probe would never be skipped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::blame::Sign;
use crate::domain::ids::LeaseId;
use crate::domain::time::Moment;

/// How many failures in a row open a breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// How long a breaker is open the first time. After each failed trial it is open for twice as long.
const SKIP_MIN: Duration = Duration::from_secs(1);

/// The longest time for which a breaker is open.
const SKIP_MAX: Duration = Duration::from_secs(60);

/// Whether an endpoint gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// Requests pass.
    Closed {
        /// How many requests have failed in a row, at most two.
        failures: u32,
    },
    /// No request is sent before `until`.
    Open {
        /// When a trial request is allowed.
        until: Moment,
        /// The time from the opening of the breaker to `until`.
        skip: Duration,
    },
    /// One trial request is allowed.
    Trial {
        /// How long the breaker was open at most before the trial.
        skip: Duration,
        /// The trial request's lease; `None` until it is granted.
        lease: Option<LeaseId>,
    },
}

/// What a breaker does, by its name in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// No request is sent.
    Open,
    /// One trial request is allowed.
    Trial,
}

/// A breaker as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// What the breaker does.
    pub state: BreakerState,
    /// When an open breaker allows a trial request; `None` in any other state.
    pub until: Option<DateTime<Utc>>,
}

impl BreakerView {
    /// The view of a closed breaker.
    pub const CLOSED: Self = Self { state: BreakerState::Closed, until: None };
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Returns the breaker as the API shows it. `wall` is the time of day at `now`.
    pub fn view(self, now: Moment, wall: DateTime<Utc>) -> BreakerView {
        match self {
            Breaker::Closed { .. } => BreakerView::CLOSED,
            Breaker::Open { until, .. } => {
                BreakerView { state: BreakerState::Open, until: Some(wall + until.since(now)) }
            }
            Breaker::Trial { .. } => BreakerView { state: BreakerState::Trial, until: None },
        }
    }

    /// Tells whether the API shows both breakers alike.
    pub fn shows_the_same_as(self, other: Breaker) -> bool {
        match (self, other) {
            (Breaker::Closed { .. }, Breaker::Closed { .. }) | (Breaker::Trial { .. }, Breaker::Trial { .. }) => true,
            (Breaker::Open { until, .. }, Breaker::Open { until: other, .. }) => until == other,
            (Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Trial { .. }, _) => false,
        }
    }

    /// Tells whether requests pass.
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

    /// Learns of a grant. The first lease granted in a trial is the trial's lease.
    #[must_use]
    pub fn granted(self, lease: LeaseId) -> Self {
        match self {
            Breaker::Trial { skip, lease: None } => Breaker::Trial { skip, lease: Some(lease) },
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Trial { .. } => self,
        }
    }

    /// Learns what a lease says about the endpoint. Closed -> open after failures in a row; trial -> open, for longer,
    /// if its lease fails; any -> closed once a request succeeds. An undecided trial goes on until its verdict.
    #[must_use]
    pub fn judged(self, now: Moment, ended: LeaseId, sign: Sign) -> Self {
        let is_failure = match sign {
            Sign::Good => return Breaker::default(),
            Sign::Undecided => return self,
            Sign::Bad => true,
            Sign::Busy | Sign::Nothing => false,
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
            // The request was under way before the breaker opened.
            Breaker::Open { .. } | Breaker::Trial { .. } => self,
        }
    }

    /// Tells whether `tried` is the lease of the trial request.
    pub fn is_tried_with(self, tried: LeaseId) -> bool {
        matches!(self, Breaker::Trial { lease: Some(lease), .. } if lease == tried)
    }

    /// Learns of the first byte of a good answer. Trial -> closed, if `lease` is that of the trial request.
    #[must_use]
    pub fn answer_began(self, lease: LeaseId) -> Self {
        if self.is_tried_with(lease) { Self::default() } else { self }
    }

    /// Learns that the endpoint has answered a probe sent at `sent`. Open -> trial, unless the probe was sent within a
    /// second of the failure that opened the breaker.
    #[must_use]
    pub fn probe_answered(self, sent: Moment) -> Self {
        match self {
            Breaker::Open { until, skip } if sent.after(skip) >= until.after(SKIP_MIN) => {
                Breaker::Trial { skip, lease: None }
            }
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Trial { .. } => self,
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

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    const TRIAL: LeaseId = LeaseId(1);
    const OTHER: LeaseId = LeaseId(2);

    fn failed(breaker: Breaker, now: u64, lease: LeaseId) -> Breaker {
        breaker.judged(at(now), lease, Sign::Bad)
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
            assert_eq!(trial.judged(at(now), OTHER, Sign::Nothing), trial);
            assert_eq!(trial.judged(at(now), TRIAL, Sign::Undecided), trial, "its verdict is to come");
            assert_eq!(trial.judged(at(now), TRIAL, Sign::Nothing), ready, "nothing was learnt");
            assert_eq!(trial.judged(at(now), OTHER, Sign::Good), Breaker::default());
            breaker = failed(trial, now, TRIAL);
        }
    }

    #[test]
    fn the_first_byte_of_the_trial_requests_answer_closes_it() {
        let trial = Breaker::Trial { skip: SKIP_MAX, lease: Some(TRIAL) };
        let ready = Breaker::Trial { skip: SKIP_MAX, lease: None };
        let open = Breaker::Open { until: at(60), skip: SKIP_MAX };
        assert_eq!(trial.answer_began(TRIAL), Breaker::default());
        for (breaker, lease) in
            [(trial, OTHER), (ready, TRIAL), (open, TRIAL), (Breaker::Closed { failures: 2 }, TRIAL)]
        {
            assert_eq!(breaker.answer_began(lease), breaker);
        }
    }

    #[test]
    fn a_probe_that_no_failure_brought_about_ends_the_skipping() {
        // Opened at 40 s.
        let open = Breaker::Open { until: at(72), skip: Duration::from_secs(32) };
        let ready = Breaker::Trial { skip: Duration::from_secs(32), lease: None };
        for (sent, expected) in [(0, open), (39, open), (40, open), (41, ready), (60, ready)] {
            assert_eq!(open.probe_answered(at(sent)), expected, "sent at {sent} s");
        }
        let trial = Breaker::Trial { skip: SKIP_MAX, lease: Some(TRIAL) };
        for breaker in [Breaker::Closed { failures: 2 }, ready, trial] {
            assert_eq!(breaker.probe_answered(at(100)), breaker);
        }
    }

    #[test]
    fn the_api_shows_when_an_open_breaker_is_tried() {
        let wall = DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time");
        let view = |breaker: Breaker| {
            let BreakerView { state, until } = breaker.view(at(10), wall);
            (state, until.map(|until| (until - wall).num_seconds()))
        };
        assert_eq!(view(Breaker::Closed { failures: 2 }), (BreakerState::Closed, None));
        assert_eq!(view(Breaker::Open { until: at(14), skip: SKIP_MIN }), (BreakerState::Open, Some(4)));
        assert_eq!(view(Breaker::Trial { skip: SKIP_MIN, lease: None }), (BreakerState::Trial, None));
    }

    #[test]
    fn a_success_starts_the_count_again_and_a_blameless_failure_does_not_count() {
        let twice = failed(failed(Breaker::default(), 0, OTHER), 0, OTHER);
        for sign in [Sign::Busy, Sign::Undecided, Sign::Nothing] {
            assert_eq!(twice.judged(at(0), OTHER, sign), twice);
        }
        let well = twice.judged(at(0), OTHER, Sign::Good);
        assert!(failed(failed(well, 0, OTHER), 0, OTHER).is_closed());
    }
}
