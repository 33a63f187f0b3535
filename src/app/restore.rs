//! Reads what earlier runs have stored: statistics and keys. Statistics that cannot be read are left out with a warning; Leaseway
//! serves without them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StartError;
use crate::actors::facts::TokensUsed;
use crate::actors::history_recorder::{Past, Totals};
use crate::actors::keyring::new_secret;
use crate::actors::registry::warn_of_removed;
use crate::actors::tps_tracker::ModelSpeeds;
use crate::clock;
use crate::config::Config;
use crate::domain::history::DailySums;
use crate::domain::ids::EndpointId;
use crate::domain::keys::Keyring;
use crate::domain::reconcile::reconcile;
use crate::domain::stored_endpoint::StoredEndpoint;
use crate::domain::timeline::minute_of;
use crate::domain::tps::Speed;
use crate::http::login::Signer;
use crate::store::{Store, StoreError};

/// The database and what it had at the start.
pub struct Restored {
    /// The open database.
    pub store: Store,
    /// The endpoints, those of the config file included.
    pub endpoints: Vec<StoredEndpoint>,
    /// The last hour and the totals.
    pub past: Past,
    /// The speeds of each endpoint on this day.
    pub speeds: BTreeMap<EndpointId, ModelSpeeds>,
    /// The keys, those of the config file and the environment included.
    pub keys: Keyring,
    /// What each key has used on this day.
    pub used: TokensUsed,
    /// What signs the sessions of the dashboard.
    pub signer: Signer,
}

impl Restored {
    /// Opens the database and reads it.
    ///
    /// # Errors
    /// If the database cannot be used, or other machines could reach the server without a key.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let mut store = Store::open(&config.database.url)?;
        let wall = clock::wall();
        let known = reconcile(store.load_endpoints()?, config.endpoints.clone(), wall, Uuid::new_v4);
        store.save_endpoints(&known.saved, &known.removed)?;
        warn_of_removed(&known);
        let endpoints = known.endpoints;
        let (past, speeds) = statistics(&mut store, &endpoints, wall);
        let (keys, signer) = keys(&mut store, config, wall)?;
        let date = clock::local_day(wall);
        let used = TokensUsed { date, used: store.load_tokens_used(date)? };
        Ok(Self { store, endpoints, past, speeds, keys, used, signer })
    }
}

/// Returns the last hour, the totals, and the speeds of each of the `endpoints` on the server's local day of `wall`.
fn statistics(
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

/// Restores the keys, those of the config file and the environment included, and what signs the sessions of the dashboard.
///
/// # Errors
/// If the database fails, or other machines could reach the server without a key.
fn keys(store: &mut Store, config: &Config, wall: DateTime<Utc>) -> Result<(Keyring, Signer), StartError> {
    let mut keys = Keyring::new(store.load_keys()?);
    let changes = keys.reconcile(config.keys.clone(), wall, Uuid::new_v4);
    store.save_keys(&changes)?;
    keys.apply(changes);
    if let Some(error) = config.open_access.clone().filter(|_| keys.is_empty()) {
        return Err(StartError::OpenAccess(error));
    }
    Ok((keys, Signer::new(store.session_secret(&new_secret().0)?.as_bytes())))
}
