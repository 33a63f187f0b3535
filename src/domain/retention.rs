//! When old history is looked for: every hour, in bits of which one follows the other.

use std::time::Duration;

use super::time::Moment;

/// How often old history is looked for.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Decides when the next bit of old history is removed. At most one bit is removed at a time.
#[derive(Debug, Default)]
pub struct Retention {
    is_removing: bool,
    /// Nothing is looked for before.
    next: Moment,
}

impl Retention {
    /// Tells whether a bit is to be removed now; it is then taken to be on its way.
    pub fn is_due(&mut self, now: Moment) -> bool {
        let is_due = !self.is_removing && now >= self.next;
        self.is_removing |= is_due;
        is_due
    }

    /// Learns that a bit has been removed and whether more is left. Where that is unknown, because the removal failed, the
    /// rest waits for the next round.
    pub fn removed(&mut self, are_left: bool, now: Moment) {
        self.is_removing = false;
        self.next = if are_left { now } else { now.after(INTERVAL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_one_another_until_nothing_is_left_and_then_an_hour_passes() {
        let at = |secs: u64| Moment::from_micros(secs * 1_000_000);
        let mut retention = Retention::default();
        assert!(retention.is_due(at(0)), "at the start");
        assert!(!retention.is_due(at(4000)), "a bit is on its way");
        retention.removed(true, at(4000));
        assert!(retention.is_due(at(4000)), "the next one at once");
        retention.removed(false, at(4001));
        assert!(!retention.is_due(at(7600)));
        assert!(retention.is_due(at(7601)));
    }
}
