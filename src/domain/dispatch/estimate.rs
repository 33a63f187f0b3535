//! Estimates how long a request will wait for a lease, and how many tokens it will use.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Weight of the newest service time in the moving mean.
const NEWEST_WEIGHT: f64 = 0.2;

/// Weight of the newest request in the moving mean of tokens per byte.
const NEWEST_TOKENS_WEIGHT: f64 = 0.1;

/// Tokens per byte of a model of which nothing is known.
const TOKENS_PER_BYTE: f64 = 0.25;

/// The tokens that a byte may have. A picture has few, and every token has at least one byte.
const TOKENS_PER_BYTE_RANGE: RangeInclusive<f64> = 0.001..=1.0;

/// The mean service time of a model's recent requests, in seconds; `None` while none was served.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceTime(Option<f64>);

impl ServiceTime {
    /// Counts a request that was served in `time`, from dispatch to the last byte.
    pub fn record(&mut self, time: Duration) {
        let newest = time.as_secs_f64();
        self.0 = Some(self.0.map_or(newest, |mean| mean + NEWEST_WEIGHT * (newest - mean)));
    }

    /// Estimates the wait of the request at `position` (from 1) for `slots` slots: position × mean service time ÷
    /// slots, in whole seconds, rounded up. `None` without data or slots.
    pub fn wait(self, position: usize, slots: u64) -> Option<Duration> {
        let seconds = (position as f64 * self.0? / slots as f64).ceil();
        (slots > 0).then(|| Duration::try_from_secs_f64(seconds).ok())?
    }
}

/// How many tokens a byte of a model's recent requests had, in the mean.
#[derive(Clone, Copy, Debug)]
pub struct TokensPerByte(f64);

impl TokensPerByte {
    /// Learns how many tokens the body of a request had. A body of no bytes, or with more or fewer tokens than a body
    /// can have, counts as far as it can be true.
    pub fn learn(&mut self, tokens: u64, bytes: u64) {
        if bytes > 0 {
            let (min, max) = TOKENS_PER_BYTE_RANGE.into_inner();
            let newest = (tokens as f64 / bytes as f64).clamp(min, max);
            self.0 += NEWEST_TOKENS_WEIGHT * (newest - self.0);
        }
    }

    /// Estimates the tokens of a body of so many bytes, rounded up.
    pub fn estimate(self, bytes: u64) -> u64 {
        (bytes as f64 * self.0).ceil() as u64
    }
}

impl Default for TokensPerByte {
    fn default() -> Self {
        Self(TOKENS_PER_BYTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_position_times_service_time_over_slots() {
        let mut time = ServiceTime::default();
        assert_eq!(time.wait(3, 1), None, "no data");
        time.record(Duration::from_secs(10));
        let check = |position, slots, expected| {
            assert_eq!(time.wait(position, slots).map(|wait| wait.as_secs()), expected);
        };
        check(3, 1, Some(30));
        check(3, 4, Some(8));
        check(1, 100, Some(1));
        check(3, 0, None);
    }

    #[test]
    fn tokens_are_a_quarter_of_the_bytes_until_usage_shows_otherwise() {
        let mut ratio = TokensPerByte::default();
        assert_eq!([0, 1, 400, 401].map(|bytes| ratio.estimate(bytes)), [0, 1, 100, 101]);
        ratio.learn(0, 0);
        assert_eq!(ratio.estimate(400), 100);
        ratio.learn(500, 1000);
        assert_eq!(ratio.estimate(1000), 275);
        (0..100).for_each(|_| ratio.learn(500, 1000));
        assert_eq!(ratio.estimate(1000), 500);
        (0..200).for_each(|_| ratio.learn(0, 1_000_000));
        assert_eq!(ratio.estimate(1_000_000), 1001, "bounded below");
        (0..200).for_each(|_| ratio.learn(u64::MAX, 1));
        assert_eq!(ratio.estimate(1000), 1000, "bounded above");
    }

    #[test]
    fn the_mean_moves_towards_recent_requests() {
        let mut time = ServiceTime::default();
        time.record(Duration::from_secs(10));
        time.record(Duration::from_secs(20));
        assert_eq!(time.wait(1, 1), Some(Duration::from_secs(12)));
    }
}
