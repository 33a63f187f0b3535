//! The clocks: the only place that reads the time.

use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDate, NaiveTime, SubsecRound, TimeZone, Utc};
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

/// Returns the date of today in the server's time zone, and the time until the day ends.
pub fn today() -> (NaiveDate, Duration) {
    let now = Local::now();
    (now.date_naive(), until_next_day(now))
}

/// Returns the time until the next day of a time zone begins. Where clocks are set forward at midnight, a day begins after
/// midnight.
fn until_next_day<Z: TimeZone>(now: DateTime<Z>) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let Some(next) = now.date_naive().succ_opt() else { return DAY };
    let times = (0..=3).filter_map(|hour| NaiveTime::from_hms_opt(hour, 0, 0));
    let begins = times.filter_map(|time| now.timezone().from_local_datetime(&next.and_time(time)).earliest());
    begins.filter_map(|begin| begin.signed_duration_since(now.clone()).to_std().ok()).next().unwrap_or(DAY)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_the_midnight_of_its_time_zone() {
        let check = |now: &str, seconds| {
            let now = DateTime::parse_from_rfc3339(now).expect("a time");
            assert_eq!(until_next_day(now), Duration::from_secs(seconds), "{now}");
        };
        check("2026-11-24T00:00:00+09:00", 86_400);
        check("2026-11-24T23:59:59+09:00", 1);
        check("2026-11-30T12:00:00-03:00", 43_200);
        check("2026-12-31T23:00:00Z", 3600);
    }
}
