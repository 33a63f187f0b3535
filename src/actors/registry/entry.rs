//! One registered endpoint as Registry keeps it.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::domain::endpoint::{
    EndpointDefinition, EndpointFacts, EndpointKind, EndpointSource, EndpointStatus, EndpointView, Target,
};
use crate::domain::event::HealthChanged;
use crate::domain::health::Health;
use crate::domain::history::Counters;
use crate::domain::ids::ModelId;
use crate::domain::reports::Reports;
use crate::domain::stored_endpoint::{Observation, StoredEndpoint};
use crate::upstream::probe::Probe;

/// A registered endpoint.
pub struct Entry {
    pub definition: EndpointDefinition,
    pub source: EndpointSource,
    pub registered_at: DateTime<Utc>,
    pub health: Health,
    pub counters: Counters,
    /// `None` while not found out.
    pub detected_kind: Option<EndpointKind>,
    /// All the models it lists, allowed or not.
    pub models: Vec<String>,
    pub target: Arc<Target>,
    pub reports: Reports,
    /// The operator wants no new leases on it; until resumed, or the end of the process.
    pub is_draining: bool,
    /// A probe is on its way.
    pub probing: bool,
    /// The dispatcher ranks it last, because it has failed a request since its last good probe.
    pub is_suspect: bool,
}

impl Entry {
    /// Takes up an endpoint, new or from the database; it is pending until its first probe.
    pub fn new(stored: StoredEndpoint) -> Self {
        let StoredEndpoint { id, definition, source, registered_at, observation, counters } = stored;
        Self {
            target: Arc::new(Target::new(id, &definition)),
            health: Health::pending(observation.latency_ms, observation.last_seen),
            detected_kind: observation.kind,
            models: observation.models,
            definition,
            source,
            registered_at,
            counters,
            reports: Reports::default(),
            is_draining: false,
            probing: false,
            is_suspect: false,
        }
    }

    /// Takes over a changed definition. What was observed of another address or key no longer counts, but the old models
    /// serve until the first probe.
    pub fn redefine(&mut self, definition: EndpointDefinition, source: EndpointSource) {
        let same_server =
            definition.root_url() == self.definition.root_url() && definition.api_key == self.definition.api_key;
        self.target = Arc::new(Target::new(self.target.id, &definition));
        self.definition = definition;
        self.source = source;
        // A probe on its way was of the old definition and counts for nothing.
        self.probing = false;
        if !same_server {
            self.health = Health::pending(self.health.latency_ms, self.health.last_seen);
            self.detected_kind = None;
        }
    }

    /// Returns how it is doing. One that is draining is not shown as anything else, but probed all the same.
    pub fn status(&self) -> EndpointStatus {
        if self.is_draining { EndpointStatus::Draining } else { self.health.status }
    }

    pub fn is_online(&self) -> bool {
        self.status() == EndpointStatus::Online
    }

    /// Returns its kind, `None` while not known.
    pub fn kind(&self) -> Option<EndpointKind> {
        self.definition.kind.or(self.detected_kind)
    }

    /// Returns the models it may serve.
    pub fn served_models(&self) -> BTreeSet<ModelId> {
        let allowed = &self.definition.allowed_models;
        let served = self.models.iter().filter(|model| allowed.is_empty() || allowed.contains(model));
        served.map(|model| ModelId::from(model.as_str())).collect()
    }

    /// Returns what to ask of the server.
    pub fn probe(&self) -> Probe {
        Probe {
            root_url: self.target.root_url.clone(),
            api_key: self.target.api_key.clone(),
            kind: self.kind(),
            detect_kind: self.definition.kind.is_none()
                && (self.detected_kind.is_none() || self.health.status != EndpointStatus::Online),
        }
    }

    /// Returns what the dispatcher must know.
    pub fn facts(&self) -> EndpointFacts {
        EndpointFacts {
            target: self.target.clone(),
            max_concurrency: self.definition.max_concurrency,
            capability_score: self.definition.capability_score,
            models: Arc::new(self.served_models()),
            status: self.status(),
        }
    }

    /// Returns what the database keeps of its definition.
    pub fn stored(&self) -> StoredEndpoint {
        StoredEndpoint {
            id: self.target.id,
            definition: self.definition.clone(),
            source: self.source,
            registered_at: self.registered_at,
            observation: self.observation(),
            counters: self.counters,
        }
    }

    /// Returns what the database keeps of its probes.
    pub fn observation(&self) -> Observation {
        Observation {
            kind: self.detected_kind,
            models: self.models.clone(),
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
        }
    }

    /// Returns what viewers are told of its health.
    pub fn health_changed(&self) -> HealthChanged {
        HealthChanged {
            endpoint_id: self.target.id,
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
            last_error: self.health.last_error().map(str::to_owned),
        }
    }

    /// Returns what is shown of it.
    pub fn view(&self) -> EndpointView {
        EndpointView {
            id: self.target.id,
            name: self.definition.name.clone(),
            base_url: self.definition.base_url.clone(),
            kind: self.kind(),
            status: self.status(),
            source: self.source,
            max_concurrency: self.definition.max_concurrency,
            capability_score: self.definition.capability_score,
            in_flight: None,
            models: self.served_models().into_iter().collect(),
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
            last_error: self.health.last_error().map(str::to_owned),
            total_requests: self.counters.total,
            successful_requests: self.counters.successful,
            failed_requests: self.counters.failed,
            registered_at: self.registered_at,
        }
    }
}
