//! A point in time as the pure code sees it.

use std::time::Duration;

/// A point on the process's monotonic clock, in microseconds since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment later than all others.
    pub const NEVER: Self = Self(u64::MAX);

    /// Returns the moment `micros` microseconds after the start of the process.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the start of the process.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the beginning of the second in which this moment lies.
    pub const fn second(self) -> Self {
        Self(self.0 - self.0 % 1_000_000)
    }

    /// Returns the time from `earlier` to this moment, zero if `earlier` is later than this moment.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment `delay` after this one.
    pub fn after(self, delay: Duration) -> Self {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}
