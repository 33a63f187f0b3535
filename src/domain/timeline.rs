//! The last sixty minutes, by minute.

use std::collections::VecDeque;

/// Minutes shown, the current one included.
pub const MINUTES: usize = 60;

/// What finished within one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970-01-01T00:00Z.
    pub minute: i64,
    pub success: u64,
    pub error: u64,
}

/// Successes and errors of the last [`MINUTES`] minutes.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Minutes in which something finished, oldest first.
    minutes: VecDeque<Minute>,
}

impl Timeline {
    /// Counts one finished request in `minute`.
    pub fn record(&mut self, minute: i64, succeeded: bool) {
        let place = self.minutes.partition_point(|entry| entry.minute < minute);
        if self.minutes.get(place).is_none_or(|entry| entry.minute != minute) {
            self.minutes.insert(place, Minute { minute, success: 0, error: 0 });
        }
        let entry = &mut self.minutes[place];
        if succeeded {
            entry.success += 1;
        } else {
            entry.error += 1;
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }

    /// Returns the [`MINUTES`] minutes that end with `current`, oldest first, empty ones included.
    pub fn read(&self, current: i64) -> Vec<Minute> {
        let first = current - MINUTES as i64 + 1;
        let recorded = |minute| self.minutes.iter().find(|entry| entry.minute == minute).copied();
        let empty = |minute| Minute { minute, success: 0, error: 0 };
        (first..=current).map(|minute| recorded(minute).unwrap_or_else(|| empty(minute))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_minutes_end_with_the_current_one_and_older_ones_are_gone() {
        let mut timeline = Timeline::default();
        timeline.record(1000, true);
        timeline.record(1059, true);
        timeline.record(1059, false);
        let shown = timeline.read(1059);
        assert_eq!(shown.len(), MINUTES);
        assert_eq!(shown[0], Minute { minute: 1000, success: 1, error: 0 });
        assert_eq!(shown[59], Minute { minute: 1059, success: 1, error: 1 });
        assert_eq!(timeline.read(1060)[0].success, 0);
    }

    #[test]
    fn a_clock_that_steps_back_counts_in_its_own_minute() {
        let mut timeline = Timeline::default();
        timeline.record(1001, true);
        timeline.record(1000, true);
        let shown = timeline.read(1001);
        assert_eq!((shown[58].success, shown[59].success), (1, 1));
    }
}
