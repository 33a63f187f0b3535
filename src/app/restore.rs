//! Reads the statistics of earlier runs at the start. Statistics that cannot be read are left out with a warning; Leaseway
//! serves without them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::actors::history_recorder::{Past, Totals};
use crate::actors::tps_tracker::ModelSpeeds;
use crate::clock;
use crate::domain::history::DailySums;
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::StoredEndpoint;
use crate::domain::timeline::minute_of;
use crate::domain::tps::Speed;
use crate::store::{Store, StoreError};

/// Returns the last hour, the totals, and the speeds of each of the `endpoints` on the server's local day of `wall`.
pub fn restore(
    store: &mut Store,
    endpoints: &[StoredEndpoint],
    wall: DateTime<Utc>,
) -> (Past, BTreeMap<EndpointId, ModelSpeeds>) {
    let mut failures = Vec::new();
    let requests = or_default("request totals", store.load_request_totals(), &mut failures);
    let output_tokens = or_default("token totals", store.load_output_tokens(), &mut failures);
    let minutes = or_default("timeline", store.load_timeline(minute_of(wall)), &mut failures);
    let day = or_default("speeds", store.load_day(clock::local_day(wall)), &mut failures);
    if !failures.is_empty() {
        log::warn!("statistics not restored: {}", failures.join("; "));
    }
    let mut speeds: BTreeMap<_, _> = endpoints.iter().map(|stored| (stored.id, ModelSpeeds::default())).collect();
    for (key, sums) in day {
        if let (Some(of_endpoint), Some(speed)) = (speeds.get_mut(&key.endpoint), speed(sums)) {
            of_endpoint.insert((key.model, key.api_kind), speed);
        }
    }
    (Past { minutes, totals: Totals { requests, output_tokens } }, speeds)
}

fn speed(sums: DailySums) -> Option<Speed> {
    let duration = Duration::from_millis(sums.duration_ms.unsigned_abs());
    Speed::restored(sums.measured.unsigned_abs(), sums.output_tokens.unsigned_abs(), duration)
}

fn or_default<T: Default>(what: &str, restored: Result<T, StoreError>, failures: &mut Vec<String>) -> T {
    restored.unwrap_or_else(|error| {
        failures.push(format!("{what}: {error}"));
        T::default()
    })
}
