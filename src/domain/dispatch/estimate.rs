//! Estimates how long a request will wait for a lease.

use std::time::Duration;

/// Weight of the newest service time in the moving mean.
const NEWEST_WEIGHT: f64 = 0.2;

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
    fn the_mean_moves_towards_recent_requests() {
        let mut time = ServiceTime::default();
        time.record(Duration::from_secs(10));
        time.record(Duration::from_secs(20));
        assert_eq!(time.wait(1, 1), Some(Duration::from_secs(12)));
    }
}
