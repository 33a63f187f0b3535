//! How long the wait for a lease will be.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::ids::ModelId;

/// Weight of the newest service time in the moving mean.
const NEWEST_WEIGHT: f64 = 0.2;

/// Mean service times of recent requests, by model.
#[derive(Debug, Default)]
pub struct ServiceTimes {
    /// In seconds.
    means: HashMap<ModelId, f64>,
}

impl ServiceTimes {
    /// Counts a request that was served in `time`, from dispatch to the last byte.
    pub fn record(&mut self, model: &ModelId, time: Duration) {
        let value = time.as_secs_f64();
        match self.means.get_mut(model) {
            Some(mean) => *mean += NEWEST_WEIGHT * (value - *mean),
            None => {
                self.means.insert(model.clone(), value);
            }
        }
    }

    /// Estimates the wait of whoever is `position`-th (from 1) for `slots` slots: position × mean service time ÷ slots, in
    /// whole seconds, rounded up. `None` without data or slots.
    pub fn wait(&self, model: &ModelId, position: usize, slots: u64) -> Option<Duration> {
        let mean = self.means.get(model)?;
        let seconds = (position as f64 * mean / slots as f64).ceil();
        (slots > 0).then(|| Duration::try_from_secs_f64(seconds).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_position_times_service_time_over_slots() {
        let model = ModelId::from("m");
        let mut times = ServiceTimes::default();
        assert_eq!(times.wait(&model, 3, 1), None, "no data");
        times.record(&model, Duration::from_secs(10));
        let check = |position, slots, expected| {
            assert_eq!(times.wait(&model, position, slots).map(|wait| wait.as_secs()), expected);
        };
        check(3, 1, Some(30));
        check(3, 4, Some(8));
        check(1, 100, Some(1));
        check(3, 0, None);
    }

    #[test]
    fn the_mean_moves_towards_recent_requests() {
        let model = ModelId::from("m");
        let mut times = ServiceTimes::default();
        times.record(&model, Duration::from_secs(10));
        times.record(&model, Duration::from_secs(20));
        assert_eq!(times.wait(&model, 1, 1), Some(Duration::from_secs(12)));
    }
}
