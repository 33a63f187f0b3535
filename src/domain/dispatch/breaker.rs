//! The circuit breaker of one endpoint. After failures in a row the endpoint is skipped for a while and then tried with
//! one request. If that request fails, too, the endpoint is skipped for longer.
//!
//! The first byte of a good answer to the trial request closes the breaker, because the rest of a long answer may take
//! minutes. A good probe ends the skipping and begins the trial. A probe that directly follows a failure does not,
//! because otherwise an endpoint that fails every request and answers every probe would never be skipped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::blame::{Attempt, Sign};
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
    /// No request is sent before the end of the skip.
    Open(Skip),
    /// One trial request is allowed.
    Trial {
        /// The skip before the trial.
        skip: Skip,
        /// The trial request's lease; `None` until it is granted.
        lease: Option<LeaseId>,
    },
}

/// A time for which an endpoint is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// When the request failed that opened the breaker.
    pub since: Moment,
    /// How long the endpoint is skipped.
    pub length: Duration,
    /// The trial whose failure opened the breaker. If its endpoint turns out to be to blame, the skip becomes longer.
    /// `None` if this is decided, or the breaker was closed before.
    pub undecided: Option<LeaseId>,
}

impl Skip {
    /// Returns when a trial request is allowed.
    pub fn until(self) -> Moment {
        self.since.after(self.length)
    }

    fn longer(self) -> Self {
        Self { length: (self.length * 2).min(SKIP_MAX), undecided: None, ..self }
    }
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
            Breaker::Open(skip) => {
                BreakerView { state: BreakerState::Open, until: Some(wall + skip.until().since(now)) }
            }
            Breaker::Trial { .. } => BreakerView { state: BreakerState::Trial, until: None },
        }
    }

    /// Tells whether the API shows both breakers alike.
    pub fn shows_the_same_as(self, other: Breaker) -> bool {
        match (self, other) {
            (Breaker::Closed { .. }, Breaker::Closed { .. }) | (Breaker::Trial { .. }, Breaker::Trial { .. }) => true,
            (Breaker::Open(skip), Breaker::Open(other)) => skip.until() == other.until(),
            (Breaker::Closed { .. } | Breaker::Open(_) | Breaker::Trial { .. }, _) => false,
        }
    }

    /// Returns when an open breaker allows a trial request; `None` in any other state.
    pub fn until(self) -> Option<Moment> {
        match self {
            Breaker::Open(skip) => Some(skip.until()),
            Breaker::Closed { .. } | Breaker::Trial { .. } => None,
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
            Breaker::Open(_) | Breaker::Trial { lease: Some(_), .. } => true,
        }
    }

    /// Learns of a grant. The first lease granted in a trial is the trial's lease.
    #[must_use]
    pub fn granted(self, lease: LeaseId) -> Self {
        match self {
            Breaker::Trial { skip, lease: None } => Breaker::Trial { skip, lease: Some(lease) },
            Breaker::Closed { .. } | Breaker::Open(_) | Breaker::Trial { .. } => self,
        }
    }

    /// Learns what an attempt says about the endpoint. Closed -> open after failures in a row; trial -> open, for
    /// longer, if its request fails; any -> closed if a request succeeds that was sent after the breaker opened.
    ///
    /// A trial ends with its lease. If other endpoints decide what its failure says, the breaker opens for as long as
    /// before, and for longer once the endpoint is to blame.
    #[must_use]
    pub fn judged(self, now: Moment, Attempt { lease, granted, ended }: Attempt, sign: Sign) -> Self {
        let judged = match self {
            Breaker::Closed { failures } => match sign {
                Sign::Good => Self::default(),
                Sign::Bad if failures + 1 < FAILURES_TO_OPEN => Breaker::Closed { failures: failures + 1 },
                Sign::Bad => Breaker::Open(Skip { since: ended, length: SKIP_MIN, undecided: None }),
                Sign::Busy | Sign::Undecided | Sign::Nothing => self,
            },
            Breaker::Open(skip) | Breaker::Trial { skip, .. } if sign == Sign::Good && granted >= skip.since => {
                Self::default()
            }
            Breaker::Trial { skip, .. } if self.is_tried_with(lease) => match sign {
                Sign::Bad => Breaker::Open(Skip { since: ended, ..skip.longer() }),
                Sign::Undecided => Breaker::Open(Skip { since: ended, undecided: Some(lease), ..skip }),
                Sign::Good | Sign::Busy | Sign::Nothing => Breaker::Trial { skip, lease: None },
            },
            Breaker::Open(skip) if sign == Sign::Bad && skip.undecided == Some(lease) => Breaker::Open(skip.longer()),
            Breaker::Trial { skip, lease: other } if sign == Sign::Bad && skip.undecided == Some(lease) => {
                Breaker::Trial { skip: skip.longer(), lease: other }
            }
            // The request was sent before the breaker opened; a skip counts from the newest failure.
            Breaker::Open(skip) if sign == Sign::Bad => Breaker::Open(Skip { since: skip.since.max(ended), ..skip }),
            Breaker::Open(_) | Breaker::Trial { .. } => self,
        };
        judged.waited(now)
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
            Breaker::Open(skip) if sent >= skip.since.after(SKIP_MIN) => Breaker::Trial { skip, lease: None },
            Breaker::Closed { .. } | Breaker::Open(_) | Breaker::Trial { .. } => self,
        }
    }

    /// Learns that time has passed. Open -> trial.
    #[must_use]
    pub fn waited(self, now: Moment) -> Self {
        match self {
            Breaker::Open(skip) if skip.until() <= now => Breaker::Trial { skip, lease: None },
            Breaker::Closed { .. } | Breaker::Open(_) | Breaker::Trial { .. } => self,
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

    fn skip(since: u64, seconds: u64) -> Skip {
        Skip { since: at(since), length: Duration::from_secs(seconds), undecided: None }
    }

    fn judged(breaker: Breaker, now: u64, lease: LeaseId, sign: Sign) -> Breaker {
        breaker.judged(at(now), Attempt { lease, granted: at(now), ended: at(now) }, sign)
    }

    fn failed(breaker: Breaker, now: u64, lease: LeaseId) -> Breaker {
        judged(breaker, now, lease, Sign::Bad)
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
            assert_eq!(breaker, Breaker::Open(skip(now, expected)));
            assert!(breaker.skips());
            assert_eq!(failed(breaker, now, OTHER), breaker, "one that was on its way");
            assert_eq!(breaker.waited(at(now + expected - 1)), breaker);
            now += expected;
            let ready = breaker.waited(at(now));
            let trial = ready.granted(TRIAL);
            assert_eq!((ready.skips(), trial.skips(), trial.is_closed()), (false, true, false));
            assert_eq!(trial.granted(OTHER), trial, "as a last resort");
            assert_eq!(failed(trial, now, OTHER), trial, "one that was on its way");
            assert_eq!(judged(trial, now, OTHER, Sign::Nothing), trial);
            assert_eq!(judged(trial, now, TRIAL, Sign::Nothing), ready, "nothing was learnt");
            assert_eq!(judged(trial, now, OTHER, Sign::Good), Breaker::default());
            breaker = failed(trial, now, TRIAL);
        }
    }

    #[test]
    fn an_undecided_trial_opens_it_again_and_for_longer_once_the_endpoint_is_to_blame() {
        let trial = Breaker::Trial { skip: skip(0, 4), lease: Some(TRIAL) };
        let attempt = Attempt { lease: TRIAL, granted: at(5), ended: at(6) };
        let undecided = trial.judged(at(6), attempt, Sign::Undecided);
        assert_eq!(undecided, Breaker::Open(Skip { undecided: Some(TRIAL), ..skip(6, 4) }));
        for sign in [Sign::Undecided, Sign::Nothing] {
            assert_eq!(undecided.judged(at(7), attempt, sign), undecided);
        }
        let newest = Breaker::Open(Skip { undecided: Some(TRIAL), ..skip(7, 4) });
        assert_eq!(failed(undecided, 7, OTHER), newest, "a skip counts from the newest failure");
        let open = undecided.judged(at(7), attempt, Sign::Bad);
        assert_eq!(open, Breaker::Open(skip(6, 8)));
        assert_eq!(open.judged(at(8), attempt, Sign::Bad), open);
        for lease in [None, Some(OTHER)] {
            let later = Breaker::Trial { skip: Skip { undecided: Some(TRIAL), ..skip(6, 4) }, lease };
            assert_eq!(later.judged(at(11), attempt, Sign::Bad), Breaker::Trial { skip: skip(6, 8), lease });
        }
    }

    #[test]
    fn only_a_success_of_a_request_sent_after_it_opened_closes_it() {
        let trial = |lease| Breaker::Trial { skip: skip(5, 4), lease };
        for breaker in [Breaker::Open(skip(5, 4)), trial(None), trial(Some(TRIAL))] {
            for (granted, expected) in [(4, breaker), (5, Breaker::default()), (6, Breaker::default())] {
                let attempt = Attempt { lease: OTHER, granted: at(granted), ended: at(7) };
                assert_eq!(breaker.judged(at(7), attempt, Sign::Good), expected, "granted at {granted} s");
            }
        }
    }

    #[test]
    fn a_late_verdict_opens_it_only_for_what_is_left_of_the_skip() {
        let attempt = Attempt { lease: OTHER, granted: at(0), ended: at(4) };
        let twice = failed(failed(Breaker::default(), 3, OTHER), 3, OTHER);
        assert_eq!(twice.judged(at(4), attempt, Sign::Bad), Breaker::Open(skip(4, 1)));
        assert_eq!(twice.judged(at(5), attempt, Sign::Bad), Breaker::Trial { skip: skip(4, 1), lease: None });
    }

    #[test]
    fn the_first_byte_of_the_trial_requests_answer_closes_it() {
        let trial = Breaker::Trial { skip: skip(0, 60), lease: Some(TRIAL) };
        let ready = Breaker::Trial { skip: skip(0, 60), lease: None };
        let open = Breaker::Open(skip(0, 60));
        assert_eq!(trial.answer_began(TRIAL), Breaker::default());
        for (breaker, lease) in
            [(trial, OTHER), (ready, TRIAL), (open, TRIAL), (Breaker::Closed { failures: 2 }, TRIAL)]
        {
            assert_eq!(breaker.answer_began(lease), breaker);
        }
    }

    #[test]
    fn a_probe_that_no_failure_brought_about_ends_the_skipping() {
        let open = Breaker::Open(skip(40, 32));
        let ready = Breaker::Trial { skip: skip(40, 32), lease: None };
        for (sent, expected) in [(0, open), (39, open), (40, open), (41, ready), (60, ready)] {
            assert_eq!(open.probe_answered(at(sent)), expected, "sent at {sent} s");
        }
        let trial = Breaker::Trial { skip: skip(40, 60), lease: Some(TRIAL) };
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
        assert_eq!(view(Breaker::Open(skip(10, 4))), (BreakerState::Open, Some(4)));
        assert_eq!(view(Breaker::Trial { skip: skip(9, 1), lease: None }), (BreakerState::Trial, None));
    }

    #[test]
    fn a_success_starts_the_count_again_and_a_blameless_failure_does_not_count() {
        let twice = failed(failed(Breaker::default(), 0, OTHER), 0, OTHER);
        for sign in [Sign::Busy, Sign::Undecided, Sign::Nothing] {
            assert_eq!(judged(twice, 0, OTHER, sign), twice);
        }
        let well = judged(twice, 0, OTHER, Sign::Good);
        assert!(failed(failed(well, 0, OTHER), 0, OTHER).is_closed());
    }
}
