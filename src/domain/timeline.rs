//! The requests that ended within the last sixty minutes, by minute.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::history::Counters;

/// How many minutes the dashboard shows, the current one included.
pub const MINUTES: usize = 60;

/// Returns the minute in which `wall` lies, counted since 1970-01-01T00:00Z.
pub fn minute_of(wall: DateTime<Utc>) -> i64 {
    wall.timestamp().div_euclid(60)
}

/// The requests that ended within one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970-01-01T00:00Z.
    pub minute: i64,
    /// Requests whose final answer was a success.
    pub success: u64,
    /// Requests that failed or were refused.
    pub error: u64,
}

/// Successes and errors of the last [`MINUTES`] minutes. A request counts in the minute that the clock shows at its
/// end, even if the clock is set back or forward later.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Minutes in which requests ended, at most 60 on each side of the minute recorded last.
    minutes: BTreeMap<i64, Minute>,
}

impl From<Vec<Minute>> for Timeline {
    fn from(minutes: Vec<Minute>) -> Self {
        Self { minutes: minutes.into_iter().map(|minute| (minute.minute, minute)).collect() }
    }
}

impl Timeline {
    /// Counts a request that has ended in `minute`, by its final answer. An abandoned request is neither success nor
    /// error.
    pub fn record(&mut self, minute: i64, request: Counters) {
        let is_new = !self.minutes.contains_key(&minute);
        let entry = self.minutes.entry(minute).or_insert(Minute { minute, success: 0, error: 0 });
        entry.success += request.successful.unsigned_abs();
        entry.error += request.failed.unsigned_abs();
        if is_new {
            // Minutes later than this one were recorded before the clock was set back. They are shown when the clock
            // reaches them again.
            let kept = minute - MINUTES as i64 + 1..=minute + MINUTES as i64;
            self.minutes.retain(|minute, _| kept.contains(minute));
        }
    }

    /// Returns the [`MINUTES`] minutes that end with `current`, oldest first, empty ones included.
    pub fn read(&self, current: i64) -> Vec<Minute> {
        let first = current - MINUTES as i64 + 1;
        (first..=current).map(|minute| self.at(minute)).collect()
    }

    /// Returns one minute, with zero requests if none ended in it.
    pub fn at(&self, minute: i64) -> Minute {
        self.minutes.get(&minute).copied().unwrap_or(Minute { minute, success: 0, error: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUCCESS: Counters = Counters { total: 1, successful: 1, failed: 0 };
    const ERROR: Counters = Counters { total: 1, successful: 0, failed: 1 };
    const ABANDONED: Counters = Counters { total: 1, successful: 0, failed: 0 };

    #[test]
    fn sixty_minutes_end_with_the_current_one_and_older_ones_are_gone() {
        let mut timeline = Timeline::from(vec![Minute { minute: 1000, success: 2, error: 1 }]);
        timeline.record(1059, SUCCESS);
        timeline.record(1059, ERROR);
        timeline.record(1059, ABANDONED);
        let shown = timeline.read(1059);
        assert_eq!(shown.len(), MINUTES);
        assert_eq!(shown[0], Minute { minute: 1000, success: 2, error: 1 });
        assert_eq!(shown[59], Minute { minute: 1059, success: 1, error: 1 });
        assert_eq!(timeline.read(1060)[0], Minute { minute: 1001, success: 0, error: 0 });
    }

    #[test]
    fn a_clock_that_steps_counts_in_its_own_minute_and_loses_nothing_of_the_hour() {
        let mut timeline = Timeline::default();
        (1000..1060).for_each(|minute| timeline.record(minute, SUCCESS));
        timeline.record(1058, SUCCESS);
        let shown = timeline.read(1059);
        assert_eq!((shown[0].success, shown[58].success, shown[59].success), (1, 2, 1));
        // The clock was ten minutes ahead for a while.
        timeline.record(1069, ERROR);
        timeline.record(1060, SUCCESS);
        let sums = |current| timeline.read(current).iter().map(|minute| minute.success + minute.error).sum::<u64>();
        assert_eq!((sums(1060), timeline.read(1069)[59].error), (52, 1));
    }

    #[test]
    fn it_takes_no_more_room_the_longer_it_runs() {
        let mut timeline = Timeline::default();
        (0..10_000).for_each(|minute| timeline.record(minute, SUCCESS));
        assert_eq!(timeline.minutes.len(), MINUTES);
    }
}
