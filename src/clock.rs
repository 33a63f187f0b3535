//! The only reader of time.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::domain::time::Moment;

/// Returns the current moment of the monotonic clock. Follows tokio's clock, so that tests can pause it.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let micros = Instant::now().saturating_duration_since(start).as_micros();
    Moment::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Returns the time of day, in UTC.
pub fn wall() -> DateTime<Utc> {
    Utc::now()
}
