//! What happened to requests and leases within the last hour.

use std::collections::VecDeque;
use std::time::Duration;

use super::request::{Outcome, Refusal};
use super::time::Moment;

const HOUR: Duration = Duration::from_secs(3600);

/// The sums of a second or of the last hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Leases granted.
    pub granted: u64,
    /// How long the requests of these leases had waited, in total.
    pub wait_total: Duration,
    /// Leases that ended with success.
    pub served: u64,
    /// How long these leases were held, in total.
    pub service_total: Duration,
    /// Requests refused because they had waited too long.
    pub timeouts: u64,
    /// Requests refused because the line was full or filling.
    pub rejected: u64,
}

impl Sums {
    /// Returns the mean wait before a granted lease, in milliseconds; 0 if no lease was granted.
    pub fn avg_wait_ms(&self) -> f64 {
        mean_ms(self.wait_total, self.granted)
    }

    /// Returns the mean duration of the leases that ended with success, in milliseconds; 0 if there were none.
    pub fn avg_service_ms(&self) -> f64 {
        mean_ms(self.service_total, self.served)
    }

    /// Returns the mean duration of the leases that ended with success, in milliseconds; `None` if there were none.
    pub fn average_response_ms(&self) -> Option<f64> {
        (self.served > 0).then(|| self.avg_service_ms())
    }

    fn add(&mut self, more: &Sums) {
        self.granted += more.granted;
        self.wait_total += more.wait_total;
        self.served += more.served;
        self.service_total += more.service_total;
        self.timeouts += more.timeouts;
        self.rejected += more.rejected;
    }
}

fn mean_ms(total: Duration, count: u64) -> f64 {
    total.as_secs_f64() * 1000.0 / count.max(1) as f64
}

/// The sums of the last hour by second, at most 3601 of them.
#[derive(Debug, Default)]
pub struct LastHour {
    /// The beginning and the sums of each second in which something happened, oldest first.
    seconds: VecDeque<(Moment, Sums)>,
}

impl LastHour {
    /// Counts a granted lease whose request waited for `waited`.
    pub fn granted(&mut self, now: Moment, waited: Duration) {
        let sums = self.current(now);
        sums.granted += 1;
        sums.wait_total += waited;
    }

    /// Counts an ended lease that was held for `duration`; only successes count.
    pub fn ended(&mut self, now: Moment, outcome: &Outcome, duration: Duration) {
        if let Outcome::Succeeded { .. } = outcome {
            let sums = self.current(now);
            sums.served += 1;
            sums.service_total += duration;
        }
    }

    /// Counts a refused request; only time-outs and refusals for want of room in the line count.
    pub fn refused(&mut self, now: Moment, refusal: &Refusal) {
        match refusal {
            Refusal::QueueTimeout { .. } => self.current(now).timeouts += 1,
            Refusal::QueueFull { .. } | Refusal::KeyQueueFull { .. } | Refusal::Overloaded { .. } => {
                self.current(now).rejected += 1;
            }
            Refusal::ModelNotFound
            | Refusal::NoEndpointOnline
            | Refusal::WarmingUp
            | Refusal::NothingUntried { .. }
            | Refusal::ApiNotSupported(_)
            | Refusal::RateLimitExceeded { .. }
            | Refusal::Draining => {}
        }
    }

    /// Returns the sums of the hour that ends now.
    pub fn read(&mut self, now: Moment) -> Sums {
        self.forget(now);
        let mut sums = Sums::default();
        self.seconds.iter().for_each(|(_, second)| sums.add(second));
        sums
    }

    fn current(&mut self, now: Moment) -> &mut Sums {
        let second = now.second();
        if self.seconds.back().is_none_or(|(last, _)| *last < second) {
            self.forget(now);
            self.seconds.push_back((second, Sums::default()));
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last].1
    }

    fn forget(&mut self, now: Moment) {
        while self.seconds.front().is_some_and(|(second, _)| now.since(*second) > HOUR) {
            self.seconds.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_hour_is_summed_and_what_is_older_is_forgotten() {
        let mut hour = LastHour::default();
        hour.granted(at(10), Duration::from_secs(4));
        hour.refused(at(10), &Refusal::QueueTimeout { waited: Duration::ZERO });
        hour.granted(at(2000), Duration::from_secs(2));
        hour.ended(at(2000), &Outcome::Succeeded { tokens: None }, Duration::from_secs(3));
        hour.ended(at(2000), &Outcome::Abandoned, Duration::from_secs(100));
        hour.refused(at(2001), &Refusal::QueueFull { estimated_wait: None });
        hour.refused(at(2001), &Refusal::Overloaded { estimated_wait: None });
        hour.refused(at(2001), &Refusal::ModelNotFound);
        let sums = hour.read(at(3610));
        assert_eq!((sums.granted, sums.served, sums.timeouts, sums.rejected), (2, 1, 1, 2));
        assert_eq!((sums.avg_wait_ms(), sums.avg_service_ms()), (3000.0, 3000.0));
        let sums = hour.read(at(3611));
        assert_eq!((sums.granted, sums.timeouts, sums.rejected), (1, 0, 2));
        assert_eq!(hour.read(at(9000)), Sums::default());
    }

    #[test]
    fn a_busy_hour_takes_bounded_memory() {
        let mut hour = LastHour::default();
        for second in 0..20_000 {
            hour.granted(at(second), Duration::ZERO);
            hour.granted(at(second), Duration::ZERO);
        }
        assert!(hour.seconds.len() <= 3602, "{}", hour.seconds.len());
        assert_eq!(hour.read(at(19_999)).granted, 2 * 3601);
    }
}
