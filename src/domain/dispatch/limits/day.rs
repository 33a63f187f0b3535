//! The server's local day, for which `tokens_per_day` holds.

use std::time::Duration;

use chrono::NaiveDate;

use crate::domain::time::Moment;

/// A local day and when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Day {
    /// The date.
    pub date: NaiveDate,
    /// When the day ends.
    pub ends: Moment,
}

impl Day {
    /// Returns the time until the day ends.
    pub fn left(&self, now: Moment) -> Duration {
        self.ends.since(now)
    }

    /// Tells whether another day is later.
    pub fn is_followed_by(&self, other: Day) -> bool {
        self.date < other.date
    }

    /// Returns the day to go on with after another day was read from the clock. If the clock is set back by a day, this
    /// day keeps its date, so that the same midnight does not come twice. A clock that is set back further was wrong
    /// before, and its date would keep all later midnights away.
    pub fn then(self, read: Day) -> Day {
        let is_set_back_a_day = read.date < self.date && Some(read.date) == self.date.pred_opt();
        Day { date: if is_set_back_a_day { self.date } else { read.date }, ends: read.ends }
    }
}
