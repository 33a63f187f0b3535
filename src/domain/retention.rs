//! Decides when old history is removed: every hour and after a number of new rows, one small bit after the other.

use std::time::Duration;

use super::time::Moment;

/// How much time passes at most between two rounds of removal.
const INTERVAL: Duration = Duration::from_secs(3600);

/// How many rows are added at most between two rounds of removal.
const ADDED_MAX: u32 = 10_000;

/// Decides when the next bit of old history is removed. At most one bit is removed at a time.
#[derive(Debug)]
pub struct Retention {
    /// The number of new rows that begins a round before its time.
    added_max: usize,
    /// Rows added since the last bit began.
    added: usize,
    /// A bit is being removed.
    is_removing: bool,
    /// When the next bit is due if no rows are added.
    next: Moment,
}

impl Retention {
    /// Creates the rules for a history of at most `rows_max` rows. The history may exceed the limit by one percent, but
    /// not by more than 10,000 rows, before a round begins.
    pub fn new(rows_max: u32) -> Self {
        let added_max = (rows_max / 100).clamp(1, ADDED_MAX) as usize;
        Self { added_max, added: 0, is_removing: false, next: Moment::default() }
    }

    /// Learns that `rows` rows were added.
    pub fn rows_added(&mut self, rows: usize) {
        self.added = self.added.saturating_add(rows);
    }

    /// Tells whether a bit must be removed now. If so, no other bit is due until [`removed`](Self::removed) is called.
    pub fn is_due(&mut self, now: Moment) -> bool {
        if self.is_removing || (now < self.next && self.added < self.added_max) {
            return false;
        }
        (self.is_removing, self.added) = (true, 0);
        true
    }

    /// Learns that a bit was removed, and whether more rows are left to remove. After a failed removal `are_left` is
    /// false, and the rest waits for the next round.
    pub fn removed(&mut self, are_left: bool, now: Moment) {
        self.is_removing = false;
        self.next = if are_left { now } else { now.after(INTERVAL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_micros(secs * 1_000_000)
    }

    #[test]
    fn bits_follow_one_another_until_nothing_is_left_and_then_an_hour_passes() {
        let mut retention = Retention::new(1_000_000);
        assert!(retention.is_due(at(0)), "at the start");
        assert!(!retention.is_due(at(4000)), "a bit is on its way");
        retention.removed(true, at(4000));
        assert!(retention.is_due(at(4000)), "the next one at once");
        retention.removed(false, at(4001));
        assert!(!retention.is_due(at(7600)));
        assert!(retention.is_due(at(7601)));
    }

    #[test]
    fn new_rows_are_a_reason_to_look_before_the_hour_is_over() {
        for (rows_max, added) in [(1, 1), (150, 1), (5000, 50), (1_000_000, 10_000), (1_000_000_000, 10_000)] {
            let mut retention = Retention::new(rows_max);
            assert!(retention.is_due(at(0)));
            retention.removed(false, at(0));
            retention.rows_added(added - 1);
            assert!(!retention.is_due(at(1)), "{rows_max}");
            retention.rows_added(1);
            assert!(retention.is_due(at(1)), "{rows_max}");
            retention.rows_added(added);
            assert!(!retention.is_due(at(1)), "one bit at a time");
            retention.removed(false, at(1));
            assert!(retention.is_due(at(1)), "rows were added meanwhile");
        }
    }
}
