//! One registered endpoint as Registry keeps it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::domain::endpoint::{
    EndpointDefinition, EndpointFacts, EndpointKind, EndpointSource, EndpointStatus, EndpointView, Target,
};
use crate::domain::event::HealthChanged;
use crate::domain::health::{Health, ProbeAnswer};
use crate::domain::history::Counters;
use crate::domain::ids::ModelId;
use crate::domain::reports::Reports;
use crate::domain::stored_endpoint::{Observation, StoredEndpoint};
use crate::upstream::look::Wanted;
use crate::upstream::probe::Probe;

/// How many names of models are kept that answers came from and the endpoint does not list.
const ODD_ANSWERS_MAX: usize = 16;

/// A registered endpoint.
pub struct Entry {
    pub definition: EndpointDefinition,
    pub source: EndpointSource,
    pub registered_at: DateTime<Utc>,
    pub health: Health,
    pub counters: Counters,
    /// `None` while not found out.
    pub detected_kind: Option<EndpointKind>,
    /// The kind is to be found out by looking closer.
    pub seeks_kind: bool,
    /// How many slots the engine says it has; `None` while it has not said.
    pub engine_slots: Option<u32>,
    /// The operator has been told where the number of slots comes from.
    pub is_slots_logged: bool,
    /// All the models the server lists, allowed or not.
    pub models: Vec<String>,
    /// The list is the server's own of this process; else it is what the database has, and the server may have others.
    pub is_list_current: bool,
    /// Names of models, not in the list, that answers came from and that the operator was warned of.
    pub odd_answers: BTreeSet<ModelId>,
    pub target: Arc<Target>,
    pub reports: Reports,
    /// The operator wants no new leases on it; until resumed, or the end of the process.
    pub is_draining: bool,
}

impl Entry {
    /// Takes up an endpoint, new or from the database; it is pending until its first probe.
    pub fn new(stored: StoredEndpoint) -> Self {
        let StoredEndpoint { id, definition, source, registered_at, observation, counters } = stored;
        Self {
            target: Arc::new(Target::new(id, &definition)),
            health: Health::pending(observation.latency_ms, observation.last_seen),
            detected_kind: observation.kind,
            seeks_kind: true,
            engine_slots: None,
            is_slots_logged: false,
            models: observation.models,
            is_list_current: false,
            odd_answers: BTreeSet::new(),
            definition,
            source,
            registered_at,
            counters,
            reports: Reports::default(),
            is_draining: false,
        }
    }

    /// Takes over a changed definition. What was observed of another address or key no longer counts, but the old models
    /// serve until the first probe. Returns whether it is another server now.
    pub fn redefine(&mut self, definition: EndpointDefinition, source: EndpointSource) -> bool {
        let target = self.target.redefined(&definition);
        let is_another = !target.is_same_server(&self.target);
        self.target = Arc::new(target);
        self.is_slots_logged &= definition.max_concurrency == self.definition.max_concurrency;
        self.definition = definition;
        self.source = source;
        if is_another {
            self.health = Health::pending(self.health.latency_ms, self.health.last_seen);
            self.detected_kind = None;
            self.seeks_kind = true;
            self.engine_slots = None;
            self.is_slots_logged = false;
            self.is_list_current = false;
        }
        is_another
    }

    /// Takes over what a good probe has found out.
    pub fn observe(&mut self, answer: ProbeAnswer) {
        if let Some(kind) = answer.kind {
            self.detected_kind = Some(kind);
            self.seeks_kind = false;
        }
        match answer.models {
            // A server that lists nothing while it loads has not made its list yet.
            Some(models) if !(answer.is_loading && models.is_empty()) => {
                if models != self.models {
                    self.odd_answers.clear();
                }
                self.models = models;
                self.is_list_current = true;
            }
            Some(_) | None => self.is_list_current = false,
        }
    }

    /// Takes note of a model that an answer names in place of the one asked for. Returns whether the model is neither listed
    /// nor known from an earlier answer; of such names [`ODD_ANSWERS_MAX`] are kept until the list changes, others are ignored.
    pub fn answers_oddly(&mut self, model: &ModelId) -> bool {
        let is_listed = self.models.iter().any(|listed| listed == model.as_str());
        !is_listed && self.odd_answers.len() < ODD_ANSWERS_MAX && self.odd_answers.insert(model.clone())
    }

    /// Returns how the endpoint is doing. One that is draining is not shown as anything else, but probed all the same.
    pub fn status(&self) -> EndpointStatus {
        if self.is_draining { EndpointStatus::Draining } else { self.health.status }
    }

    pub fn is_online(&self) -> bool {
        self.status() == EndpointStatus::Online
    }

    /// Returns the kind; `None` while not known.
    pub fn kind(&self) -> Option<EndpointKind> {
        self.definition.kind.or(self.detected_kind)
    }

    /// Returns how many slots there are.
    pub fn slots(&self) -> u32 {
        self.definition.max_concurrency.or(self.engine_slots).unwrap_or(1)
    }

    /// Returns the models that the endpoint may serve. While its list is not known, these are all that it is allowed to serve;
    /// if all are, those it had before.
    pub fn served_models(&self) -> BTreeSet<ModelId> {
        let allowed = &self.definition.allowed_models;
        let names: Vec<&String> = match (allowed.is_empty(), self.is_list_current) {
            (true, _) => self.models.iter().collect(),
            (false, false) => allowed.iter().collect(),
            (false, true) => {
                let allowed: HashSet<&String> = allowed.iter().collect();
                self.models.iter().filter(|model| allowed.contains(model)).collect()
            }
        };
        names.into_iter().map(|model| ModelId::from(model.as_str())).collect()
    }

    /// Tells whether the endpoint may turn out to serve any model whatever.
    fn may_serve_any(&self) -> bool {
        let is_unknown = matches!(self.status(), EndpointStatus::Pending | EndpointStatus::Loading);
        is_unknown && !self.is_list_current && self.definition.allowed_models.is_empty()
    }

    /// Returns what to ask of the server.
    pub fn probe(&self) -> Probe {
        Probe { root_url: self.target.root_url.clone(), api_key: self.target.api_key.clone(), kind: self.kind() }
    }

    /// Returns what is to be found out beside what probes tell; the load, if `load` is wanted.
    pub fn wanted(&self, load: bool) -> Wanted {
        let slots = self.definition.max_concurrency.is_none()
            && (self.kind() == Some(EndpointKind::Llamacpp) || !self.is_slots_logged);
        Wanted { kind: self.definition.kind.is_none() && self.seeks_kind, slots, load }
    }

    /// Returns what the dispatcher must know.
    pub fn facts(&self) -> EndpointFacts {
        self.target.learn_kind(self.kind());
        EndpointFacts {
            target: self.target.clone(),
            max_concurrency: self.slots(),
            capability_score: self.definition.capability_score,
            models: Arc::new(if self.may_serve_any() { BTreeSet::new() } else { self.served_models() }),
            status: self.status(),
        }
    }

    /// Returns what the database keeps of the endpoint.
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

    /// Returns what the database keeps of what was found out.
    pub fn observation(&self) -> Observation {
        Observation {
            kind: self.detected_kind,
            models: self.models.clone(),
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
        }
    }

    /// Returns what viewers are told of the endpoint's health.
    pub fn health_changed(&self) -> HealthChanged {
        HealthChanged {
            endpoint_id: self.target.id,
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
            last_error: self.health.last_error().map(str::to_owned),
        }
    }

    /// Returns the endpoint as the API shows it.
    pub fn view(&self) -> EndpointView {
        EndpointView {
            id: self.target.id,
            name: self.definition.name.clone(),
            base_url: self.definition.base_url.clone(),
            kind: self.kind(),
            status: self.status(),
            source: self.source,
            max_concurrency: self.slots(),
            capability_score: self.definition.capability_score,
            in_flight: None,
            breaker: None,
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
