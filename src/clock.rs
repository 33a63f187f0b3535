//! The only reader of time.

use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDate, SubsecRound, Utc};
use tokio::time::Instant;

use crate::domain::time::Moment;

/// Returns the current moment of the monotonic clock. Follows tokio's clock, so that tests can pause it.
pub fn now() -> Moment {
    moment(Instant::now())
}

/// Returns an instant of tokio's clock as a moment.
pub fn moment(instant: Instant) -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    // By the real clock, which a test that runs ahead has not moved, and early enough for those that were paused before.
    let start = *START.get_or_init(|| {
        let real = std::time::Instant::now();
        Instant::from_std(real.checked_sub(Duration::from_secs(60)).unwrap_or(real))
    });
    let micros = instant.saturating_duration_since(start).as_micros();
    Moment::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Returns the time of day, in UTC, to the millisecond, which is what the database keeps.
pub fn wall() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// Returns the server's local day at a time.
pub fn local_day(wall: DateTime<Utc>) -> NaiveDate {
    wall.with_timezone(&Local).date_naive()
}

/// Returns the time of day at a moment of the past, by today's clock.
pub fn wall_at(moment: Moment) -> DateTime<Utc> {
    (Utc::now() - now().since(moment)).trunc_subsecs(3)
}

/// Measures how long something takes, to the nanosecond.
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
