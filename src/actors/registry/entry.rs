//! One registered endpoint as Registry keeps it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::domain::endpoint::{
    EndpointDefinition, EndpointFacts, EndpointKind, EndpointSource, EndpointStatus, EndpointView,
};
use crate::domain::event::HealthChanged;
use crate::domain::health::{Health, ProbeAnswer};
use crate::domain::history::Counters;
use crate::domain::ids::ModelId;
use crate::domain::reports::Reports;
use crate::domain::stored_endpoint::{Observation, StoredEndpoint};
use crate::domain::target::Target;
use crate::upstream::look::Wanted;
use crate::upstream::probe::Probe;

/// The most names kept of models that answers named although the endpoint does not list them.
const ODD_ANSWERS_MAX: usize = 16;

/// A registered endpoint: its definition, health, models, counters and reports.
pub struct Entry {
    /// The settings that the operator gave.
    pub definition: EndpointDefinition,
    /// Whether the API or the config file defines the endpoint.
    pub source: EndpointSource,
    /// When the endpoint was registered first.
    pub registered_at: DateTime<Utc>,
    /// The results of probes and requests.
    pub health: Health,
    /// The requests that the endpoint has had since its registration.
    pub counters: Counters,
    /// The kind that probes or looks have detected; `None` while it is not detected.
    pub detected_kind: Option<EndpointKind>,
    /// True if the next closer look must detect the kind.
    pub seeks_kind: bool,
    /// The number of slots that the engine tells; `None` while it has not told any.
    pub engine_slots: Option<u32>,
    /// True once the log says where the number of slots comes from.
    pub is_slots_logged: bool,
    /// All models that the server lists, allowed or not.
    pub models: Vec<String>,
    /// True if the last good probe brought the list. If false, the list is older, from an earlier probe or the database, and
    /// the server may have other models.
    pub is_list_current: bool,
    /// Names of models that answers named although they are not in the list; the operator has been warned of each. At most
    /// [`ODD_ANSWERS_MAX`].
    pub odd_answers: BTreeSet<ModelId>,
    /// The address and key that leases carry, shared with them.
    pub target: Arc<Target>,
    /// The latest load reports.
    pub reports: Reports,
    /// True if the operator wants no new leases on the endpoint; lasts until it is resumed or the process ends.
    pub is_draining: bool,
}

impl Entry {
    /// Creates the entry of an endpoint, new or from the database, which is pending until its first probe.
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

    /// Applies a changed definition. With another address or key the observations and reports of the old server no longer
    /// count, but its models are served until the first probe. Returns whether the address or key is another.
    pub fn redefine(&mut self, definition: EndpointDefinition, source: EndpointSource) -> bool {
        let target = self.target.redefined(&definition);
        let is_another = !target.is_same_server(&self.target);
        let kind = self.kind();
        self.target = Arc::new(target);
        self.is_slots_logged &= definition.max_concurrency == self.definition.max_concurrency;
        self.definition = definition;
        self.source = source;
        if is_another {
            self.health = Health::pending(self.health.latency_ms, self.health.last_seen);
            self.detected_kind = None;
            self.seeks_kind = true;
            self.forget_slots();
            self.is_list_current = false;
            self.odd_answers.clear();
            self.reports = Reports::default();
        } else if self.kind() != kind {
            self.forget_slots();
        }
        is_another
    }

    /// Notes the kind that a probe or a look has detected. An engine of another kind has slots of its own.
    pub fn detected(&mut self, kind: EndpointKind) {
        if self.detected_kind.replace(kind).is_some_and(|known| known != kind) {
            self.forget_slots();
        }
        self.seeks_kind = false;
    }

    fn forget_slots(&mut self) {
        self.engine_slots = None;
        self.is_slots_logged = false;
    }

    /// Applies the findings of a good probe.
    pub fn observe(&mut self, answer: ProbeAnswer) {
        if let Some(kind) = answer.kind {
            self.detected(kind);
        }
        match answer.models {
            // An empty list of a server that is loading is not its real list yet.
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

    /// Notes the model that an answer names in place of the requested one. Returns true if the model is neither listed nor noted
    /// before. At most [`ODD_ANSWERS_MAX`] names are noted until the list changes; further names are ignored.
    pub fn answers_oddly(&mut self, model: &ModelId) -> bool {
        let is_listed = self.models.iter().any(|listed| listed == model.as_str());
        !is_listed && self.odd_answers.len() < ODD_ANSWERS_MAX && self.odd_answers.insert(model.clone())
    }

    /// Returns the status. An endpoint that is draining is shown as draining whatever its probes find.
    pub fn status(&self) -> EndpointStatus {
        if self.is_draining { EndpointStatus::Draining } else { self.health.status }
    }

    /// Tells whether the endpoint gets leases.
    pub fn is_online(&self) -> bool {
        self.status() == EndpointStatus::Online
    }

    /// Returns the kind, defined or detected; `None` while it is not known.
    pub fn kind(&self) -> Option<EndpointKind> {
        self.definition.kind.or(self.detected_kind)
    }

    /// Returns the number of slots: the one defined, else the engine's own, else 1.
    pub fn slots(&self) -> u32 {
        self.definition.max_concurrency.or(self.engine_slots).unwrap_or(1)
    }

    /// Returns the models that the endpoint may serve: those that it lists and is allowed to serve. While its list is not
    /// current, these are all allowed models; if every model is allowed, the models of the old list.
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

    /// Tells whether any model may turn out to be on the endpoint, because its list is not known yet.
    fn may_serve_any(&self) -> bool {
        let is_unknown = matches!(self.status(), EndpointStatus::Pending | EndpointStatus::Loading);
        is_unknown && !self.is_list_current && self.definition.allowed_models.is_empty()
    }

    /// Returns what a probe of the server needs.
    pub fn probe(&self) -> Probe {
        Probe { root_url: self.target.root_url.clone(), api_key: self.target.api_key.clone(), kind: self.kind() }
    }

    /// Returns what a closer look must find out; the load only if `load`.
    pub fn wanted(&self, load: bool) -> Wanted {
        let slots = self.definition.max_concurrency.is_none()
            && (self.kind() == Some(EndpointKind::Llamacpp) || !self.is_slots_logged);
        Wanted { kind: self.definition.kind.is_none() && self.seeks_kind, slots, load }
    }

    /// Returns the facts that the dispatcher needs.
    pub fn facts(&self) -> EndpointFacts {
        self.target.learn_kind(self.kind());
        EndpointFacts {
            target: self.target.clone(),
            max_concurrency: self.slots(),
            capability_score: self.definition.capability_score,
            models: Arc::new(if self.may_serve_any() { BTreeSet::new() } else { self.served_models() }),
            may_serve_any: self.may_serve_any(),
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

    /// Returns the observations that the database keeps.
    pub fn observation(&self) -> Observation {
        Observation {
            kind: self.detected_kind,
            models: self.models.clone(),
            latency_ms: self.health.latency_ms,
            last_seen: self.health.last_seen,
        }
    }

    /// Returns the event that tells viewers the endpoint's health.
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
