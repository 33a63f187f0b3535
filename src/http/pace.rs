//! How slowly a client may send a request: the same rule for its head and for its body.

use std::time::Duration;

/// The lowest average speed since the beginning, in bytes a second. Without this bound a client that sends a small piece just
/// before each pause grows too long could keep one request coming for ever.
const RATE_MIN: f64 = 1024.0;

/// The time since the beginning after which [`RATE_MIN`] applies.
const RATE_AFTER: Duration = Duration::from_secs(10);

/// Returns how long the next piece may take, after `received` bytes have come in `elapsed`; `patience` is the longest pause.
pub fn may_wait(received: usize, elapsed: Duration, patience: Duration) -> Duration {
    let due = RATE_AFTER.max(Duration::from_secs_f64(received as f64 / RATE_MIN));
    patience.min(due.saturating_sub(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_pause_but_not_trickle() {
        let check = |received: usize, elapsed: u64, patience: u64, expected: u64| {
            let allowed = may_wait(received, Duration::from_secs(elapsed), Duration::from_secs(patience));
            assert_eq!(allowed.as_secs(), expected, "{received} bytes in {elapsed} s");
        };
        check(0, 0, 120, 10);
        check(0, 4, 120, 6);
        check(0, 0, 3, 3);
        check(100, 9, 120, 1);
        check(100, 10, 120, 0);
        check(10 * 1024, 10, 120, 0);
        check(11 * 1024, 10, 120, 1);
        check(1024 * 1024, 100, 120, 120);
        check(1024 * 1024, 1000, 120, 24);
        check(1024 * 1024, 2000, 120, 0);
    }
}
