//! Reads back, at the start, what was written before it. What cannot be read is left out, with a warning: it is no reason not
//! to serve.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::actors::history_recorder::{Past, Totals, minute_of};
use crate::actors::tps_tracker::Speeds;
use crate::clock;
use crate::domain::history::{DailyKey, DailySums};
use crate::domain::tps::Speed;
use crate::store::{Store, StoreError};

/// Returns the last hour and the totals, as of `wall`.
pub fn past(store: &Store, wall: DateTime<Utc>) -> Past {
    let requests = or_default("request totals", store.load_request_totals());
    let output_tokens = or_default("token totals", store.load_output_tokens());
    let minutes = or_default("timeline", store.load_timeline(minute_of(wall)));
    Past { minutes, totals: Totals { requests, output_tokens } }
}

/// Returns the speeds measured on the server's local day of `wall`.
pub fn speeds(store: &Store, wall: DateTime<Utc>) -> Speeds {
    let day = or_default("speeds", store.load_day(clock::local_day(wall)));
    let speed = |(key, sums): (DailyKey, DailySums)| {
        let duration = Duration::from_millis(sums.duration_ms.unsigned_abs());
        let (requests, tokens) = (sums.leases.successful.unsigned_abs(), sums.output_tokens.unsigned_abs());
        Some(((key.endpoint, key.model, key.api_kind), Speed::restored(requests, tokens, duration)?))
    };
    day.into_iter().filter_map(speed).collect()
}

fn or_default<T: Default>(what: &str, restored: Result<T, StoreError>) -> T {
    restored.unwrap_or_else(|error| {
        log::warn!("{what} not restored error=\"{error}\"");
        T::default()
    })
}
