//! Admission: whether a request that would have to wait may, and how soon it joins the line.

use std::time::Duration;

use serde::Serialize;

/// The shortest delay.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// Lines so short that refusing anybody before they are full would leave no line at all.
const NEVER_REJECT_UP_TO: usize = 2;

/// What is decided about a request that would have to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AdmissionDecision {
    /// It joins the line.
    Accept,
    /// It joins the line after this time, which slows down those who send too much.
    AcceptWithDelay(Duration),
    /// It is refused as overload.
    Reject,
}

/// How the wait for an endpoint that is still loading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// An endpoint is ready: the request goes on into the line.
    Ready,
    /// None was ready in time.
    Timeout,
    /// It never began: too many wait already.
    CapacityExceeded,
}

/// How filled the line is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backpressure {
    /// Newcomers are accepted.
    Normal,
    /// Newcomers are delayed.
    Warning,
    /// Newcomers are refused.
    Overloaded,
}

/// The thresholds, as parts of the line that are taken.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// From here on newcomers are delayed, 0 to 1.
    pub delay_threshold: f64,
    /// From here on newcomers are refused, 0 to 1; 1 = never before the line is full.
    pub reject_threshold: f64,
    /// At least 10 ms.
    pub max_delay: Duration,
}

impl Admission {
    /// Decides with `waiting` requests, below `max_waiting`, in the line. The delay grows linearly, from 10 ms at the one
    /// threshold to its maximum at the other.
    pub fn decide(&self, waiting: usize, max_waiting: usize) -> AdmissionDecision {
        let taken = waiting as f64 / max_waiting as f64;
        if taken >= self.reject_threshold && max_waiting > NEVER_REJECT_UP_TO {
            return AdmissionDecision::Reject;
        }
        if taken < self.delay_threshold {
            return AdmissionDecision::Accept;
        }
        let span = self.reject_threshold - self.delay_threshold;
        let part = if span > 0.0 { ((taken - self.delay_threshold) / span).clamp(0.0, 1.0) } else { 1.0 };
        AdmissionDecision::AcceptWithDelay(DELAY_MIN + self.max_delay.saturating_sub(DELAY_MIN).mul_f64(part))
    }

    /// Sums up what newcomers have to expect who find no free slot.
    pub fn backpressure(&self, waiting: usize, max_waiting: usize) -> Backpressure {
        if max_waiting > 0 && waiting >= max_waiting {
            return Backpressure::Overloaded;
        }
        match self.decide(waiting, max_waiting.max(1)) {
            AdmissionDecision::Accept => Backpressure::Normal,
            AdmissionDecision::AcceptWithDelay(_) => Backpressure::Warning,
            AdmissionDecision::Reject => Backpressure::Overloaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AdmissionDecision::{Accept, AcceptWithDelay, Reject};
    use super::*;

    fn decide(thresholds: (f64, f64), waiting: usize, max_waiting: usize) -> AdmissionDecision {
        let (delay_threshold, reject_threshold) = thresholds;
        Admission { delay_threshold, reject_threshold, max_delay: Duration::from_millis(100) }
            .decide(waiting, max_waiting)
    }

    fn delay(millis: u64) -> AdmissionDecision {
        AcceptWithDelay(Duration::from_millis(millis))
    }

    #[test]
    fn of_a_hundred_half_are_accepted_and_a_fifth_refused() {
        let check = |waiting, expected| assert_eq!(decide((0.5, 0.8), waiting, 100), expected, "{waiting}");
        check(0, Accept);
        check(49, Accept);
        check(50, delay(10));
        check(65, delay(55));
        check(79, delay(97));
        check(80, Reject);
        check(99, Reject);
    }

    #[test]
    fn the_shortest_lines_can_be_filled() {
        assert_eq!(decide((0.5, 0.8), 0, 1), Accept);
        assert_eq!(decide((0.5, 0.8), 1, 2), delay(10));
        assert_eq!(decide((0.1, 0.2), 1, 2), delay(100));
    }

    #[test]
    fn a_threshold_of_one_refuses_nobody_before_the_line_is_full() {
        assert_eq!(decide((1.0, 1.0), 99, 100), Accept);
        assert_eq!(decide((0.5, 1.0), 99, 100), AcceptWithDelay(Duration::from_micros(98_200)));
        assert_eq!(decide((0.9, 0.5), 60, 100), Reject, "the second threshold below the first");
    }

    #[test]
    fn the_state_says_what_newcomers_have_to_expect() {
        let admission =
            Admission { delay_threshold: 0.5, reject_threshold: 0.8, max_delay: Duration::from_millis(100) };
        let check = |waiting, max, expected| assert_eq!(admission.backpressure(waiting, max), expected);
        check(0, 100, Backpressure::Normal);
        check(49, 100, Backpressure::Normal);
        check(50, 100, Backpressure::Warning);
        check(80, 100, Backpressure::Overloaded);
        check(1, 1, Backpressure::Overloaded);
        check(0, 0, Backpressure::Normal);
    }
}
