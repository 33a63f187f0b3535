//! The clocks: the only place that reads the time.

use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDate, SubsecRound, Utc};
use tokio::time::Instant;

use crate::domain::time::Moment;

/// Returns the current moment of the monotonic clock. It follows tokio's clock, which tests can pause.
pub fn now() -> Moment {
    moment(Instant::now())
}

/// Returns an instant of tokio's clock as a moment.
pub fn moment(instant: Instant) -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    // The start is read from the real clock, because tests can move tokio's clock. One minute is subtracted, because a test may
    // have paused tokio's clock before this call.
    let start = *START.get_or_init(|| {
        let real = std::time::Instant::now();
        Instant::from_std(real.checked_sub(Duration::from_secs(60)).unwrap_or(real))
    });
    let micros = instant.saturating_duration_since(start).as_micros();
    Moment::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Returns the date and time in UTC, in whole milliseconds, as the database keeps them.
pub fn wall() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// Returns the date of `wall` in the server's time zone.
pub fn local_day(wall: DateTime<Utc>) -> NaiveDate {
    wall.with_timezone(&Local).date_naive()
}

/// Returns the date and time in UTC of a moment in the past.
pub fn wall_at(moment: Moment) -> DateTime<Utc> {
    (Utc::now() - now().since(moment)).trunc_subsecs(3)
}

/// Measures how long something takes, in nanoseconds.
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
