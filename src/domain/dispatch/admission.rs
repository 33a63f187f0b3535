//! Admission: whether a request that found no free slot may wait, and how soon it joins the line.

use std::time::Duration;

use serde::Serialize;

/// The shortest delay of a request before it joins the line.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// Lines with at most so many places refuse no request before they are full, because otherwise they would have no place
/// at all.
const NEVER_REJECT_UP_TO: usize = 2;

/// The decision about a request that found no free slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AdmissionDecision {
    /// The request joins the line.
    Accept,
    /// The request joins the line after this time. The delay slows down clients that send too much.
    AcceptWithDelay(Duration),
    /// The request is refused as overload.
    Reject,
}

/// How the wait for an endpoint that is still loading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// An endpoint is ready: the request goes on into the line.
    Ready,
    /// No endpoint was ready in time.
    Timeout,
    /// The wait did not begin, because too many requests wait already.
    CapacityExceeded,
}

/// What the fill of the line means for new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backpressure {
    /// New requests are accepted.
    Normal,
    /// New requests are delayed.
    Warning,
    /// New requests are refused.
    Overloaded,
}

/// The thresholds at which new requests are delayed and refused. Each is the taken part of the line, 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The part from which on new requests are delayed.
    pub delay_threshold: f64,
    /// The part from which on new requests are refused; 1: only when the line is full.
    pub reject_threshold: f64,
    /// The longest delay, at least 10 ms.
    pub max_delay: Duration,
}

impl Admission {
    /// Decides about a new request if `waiting` requests, fewer than `max_waiting`, wait already. The delay grows
    /// linearly, from 10 ms at `delay_threshold` to `max_delay` at `reject_threshold`.
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

    /// Tells what happens to a new request that finds no free slot.
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
