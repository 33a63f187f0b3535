//! A bucket that fills all the time: what is left of a limit per minute.

use std::time::Duration;

use crate::domain::time::Moment;

/// One request or token in the parts that a bucket counts: as many as a minute has microseconds, so that in each
/// microsecond a bucket gets as many parts as its limit.
const WHOLE: i128 = 60_000_000;

/// What is left of a limit per minute. A full bucket holds what may be used in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    per_minute: u64,
    /// What was left at `filled`, in parts; below zero if more was used than was left.
    left: i128,
    filled: Moment,
}

impl Bucket {
    /// Returns a full bucket.
    pub fn full(now: Moment, per_minute: u64) -> Self {
        Self { per_minute, left: i128::from(per_minute) * WHOLE, filled: now }
    }

    /// Returns the limit.
    pub fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// Changes the limit. What a raised limit adds can be used at once; a lowered limit takes away what is above it.
    pub fn change(&mut self, now: Moment, per_minute: u64) {
        self.fill(now);
        self.left += i128::from(per_minute.saturating_sub(self.per_minute)) * WHOLE;
        self.per_minute = per_minute;
        self.left = self.left.min(self.capacity());
    }

    /// Adds what the time until `now` has filled.
    pub fn fill(&mut self, now: Moment) {
        let micros = i128::from(now.as_micros().saturating_sub(self.filled.as_micros()));
        self.left = self.capacity().min(self.left + micros * i128::from(self.per_minute));
        self.filled = self.filled.max(now);
    }

    /// Uses `amount`, even if less is left.
    pub fn take(&mut self, amount: u64) {
        self.left -= i128::from(amount) * WHOLE;
    }

    /// Gives back `amount`, which was used before.
    pub fn give_back(&mut self, amount: u64) {
        self.left = self.capacity().min(self.left + i128::from(amount) * WHOLE);
    }

    /// Returns how many whole requests or tokens are left, zero if less than one is.
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.left.max(0) / WHOLE).unwrap_or(u64::MAX)
    }

    /// Returns the time until one whole request or token is left, zero if one is.
    pub fn until_one(&self) -> Duration {
        self.until(WHOLE)
    }

    /// Returns the time until the bucket is full.
    pub fn until_full(&self) -> Duration {
        self.until(self.capacity())
    }

    fn until(&self, parts: i128) -> Duration {
        let (missing, per_micro) = ((parts - self.left).max(0), i128::from(self.per_minute).max(1));
        Duration::from_micros(u64::try_from((missing + per_micro - 1) / per_micro).unwrap_or(u64::MAX))
    }

    fn capacity(&self) -> i128 {
        i128::from(self.per_minute) * WHOLE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    #[test]
    fn a_bucket_fills_all_the_time_and_holds_one_minute() {
        // The limit, what is used at second 0, the milliseconds that pass, and what is then left and to wait for.
        let check = |per_minute, used, millis, left, until_one_ms, until_full_ms| {
            let mut bucket = Bucket::full(at(0), per_minute);
            bucket.take(used);
            bucket.fill(at(millis));
            let waits = (bucket.until_one().as_millis(), bucket.until_full().as_millis());
            assert_eq!(
                (bucket.remaining(), waits),
                (left, (until_one_ms, until_full_ms)),
                "{per_minute} {used} {millis}"
            );
        };
        check(60, 0, 0, 60, 0, 0);
        check(60, 60, 0, 0, 1000, 60_000);
        check(60, 60, 999, 0, 1, 59_001);
        check(60, 60, 1000, 1, 0, 59_000);
        check(60, 60, 3_600_000, 60, 0, 0);
        check(1, 1, 0, 0, 60_000, 60_000);
        check(100, 300, 0, 0, 120_600, 180_000);
        check(100, 300, 120_600, 1, 0, 59_400);
        check(7, 7, 0, 0, 8571, 60_000);
        check(1_000_000_000_000, u64::MAX, 0, 0, 1_106_804_584_422, 1_106_804_644_422);
    }

    #[test]
    fn a_wait_is_exact_to_the_microsecond() {
        let mut bucket = Bucket::full(at(0), 7);
        bucket.take(9);
        let wait = bucket.until_one();
        bucket.fill(at(0).after(wait - Duration::from_micros(1)));
        assert_eq!(bucket.remaining(), 0);
        bucket.fill(at(0).after(wait));
        assert_eq!(bucket.remaining(), 1);
    }

    #[test]
    fn a_changed_limit_keeps_what_was_used() {
        let check = |before, used, after, left| {
            let mut bucket = Bucket::full(at(0), before);
            bucket.take(used);
            bucket.change(at(0), after);
            assert_eq!((bucket.remaining(), bucket.per_minute()), (left, after), "{before} {used} {after}");
        };
        check(10, 10, 60, 50);
        check(60, 30, 10, 10);
        check(60, 55, 10, 5);
        check(60, 60, 60, 0);
    }

    #[test]
    fn time_that_goes_back_fills_nothing() {
        let mut bucket = Bucket::full(at(5000), 60);
        bucket.take(60);
        bucket.fill(at(1000));
        assert_eq!(bucket.remaining(), 0);
        bucket.fill(at(6000));
        assert_eq!(bucket.remaining(), 1);
    }

    proptest! {
        #[test]
        fn within_any_time_a_bucket_gives_what_it_holds_and_what_flows_in_and_one_request_more(
            per_minute in 1_u64..500,
            requests in proptest::collection::vec((0_u64..20_000, 0_u64..300), 1..60),
        ) {
            let mut bucket = Bucket::full(at(0), per_minute);
            let (mut now, mut admitted) = (0, Vec::new());
            for (pause, amount) in requests {
                now += pause;
                bucket.fill(at(now));
                if bucket.remaining() > 0 {
                    bucket.take(amount);
                    admitted.push((now, amount));
                }
            }
            for (first, (from, _)) in admitted.iter().enumerate() {
                for (last, (to, amount)) in admitted.iter().enumerate().skip(first) {
                    let used: u64 = admitted[first..last].iter().map(|(_, amount)| amount).sum();
                    let allowed = per_minute as f64 * (1.0 + (to - from) as f64 / 60_000.0);
                    prop_assert!((used as f64) < allowed, "{used} and then {amount} of {allowed}");
                }
            }
        }
    }
}
