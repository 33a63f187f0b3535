//! Registry: keeps the endpoints, their health, models and counters.
//!
//! A definition is saved before its registration, change or removal is answered; until then its name and address are
//! reserved. Probes run beside the mailbox, one for each endpoint and `PROBES_MAX` in all. Closer looks afterwards find
//! out what probes do not tell.
//!
//! A change of one endpoint does not look at the others: it costs the same however many endpoints there are.

mod changes;
mod draining;
mod entry;
mod file;
mod load;
mod looking;
mod probing;
mod saving;
mod syncing;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
use arc_swap::ArcSwap;

pub use self::changes::{CheckFree, EndpointChange, RegisterEndpoint, RemoveEndpoint, UpdateEndpoint};
pub use self::draining::SetDraining;
use self::entry::Entry;
use self::file::NextFile;
pub use self::file::{ApplyFile, warn_of_removed};
pub use self::load::{ListReports, ReportLoad};
pub use self::saving::SaveObserved;
use self::syncing::SyncCallers;
pub use self::syncing::SyncEndpoint;
use super::event_hub::Publish;
use super::facts::{EndpointAnswered, EndpointBlamed, EndpointsChanged, LeasesEnded, LoadReported};
use super::persistence::{Persistence, StoreDesk};
use crate::config::HealthConfig;
use crate::domain::blame::Blamed;
use crate::domain::catalog::{Catalog, ModelList, Server};
use crate::domain::directory::Directory;
use crate::domain::endpoint::EndpointView;
use crate::domain::event::{Event, RequestsCounted};
use crate::domain::history::Counters;
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::EndedLease;
use crate::domain::stored_endpoint::StoredEndpoint;
use crate::domain::time::Moment;
use crate::domain::turns::Turns;
use crate::store::StoreError;
use crate::upstream::probe::Prober;

/// How often an endpoint that is loading its model or may be gone is probed.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(1);

/// How often Registry looks for endpoints that may have been restarted, whose models must be read again within a second.
const RESTARTS_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest time between two events about the counters of one endpoint.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// The list of models. Registry replaces it; HTTP reads it without asking an actor.
pub type ModelCatalog = ArcSwap<ModelList>;

/// The most probes, and the most closer looks, that run at one time. Each takes one file descriptor.
const PROBES_MAX: usize = 128;

/// The recipients of Registry's facts.
pub struct Neighbours {
    /// Saves observations.
    pub persistence: Addr<Persistence>,
    /// Saves changes that a client has asked for.
    pub store: StoreDesk,
    /// Hears of changed endpoints, in order to lease them.
    pub dispatcher: Recipient<EndpointsChanged>,
    /// Hears of changed endpoints, in order to measure their speeds.
    pub speeds: Recipient<EndpointsChanged>,
    /// Hears of load reports.
    pub loads: Recipient<LoadReported>,
    /// Hears of every good probe.
    pub answers: Recipient<EndpointAnswered>,
    /// Sends events to viewers.
    pub events: Recipient<Publish>,
    /// The published list of models.
    pub catalog: Arc<ModelCatalog>,
}

/// Owns the endpoints.
pub struct Registry {
    entries: BTreeMap<EndpointId, Entry>,
    /// The names and addresses of the endpoints, and those that are reserved while a change is being saved.
    directory: Directory,
    /// The config file that is applied once no change is being saved; `None` if no file waits.
    next_file: Option<NextFile>,
    catalog: Catalog,
    prober: Prober,
    probes: Turns,
    looks: Turns,
    sync_callers: SyncCallers,
    /// When the operator was last warned that probes lack file descriptors; `None` if never.
    warned_of_descriptors: Option<Moment>,
    health: HealthConfig,
    /// How long a load report counts after it has come.
    reports_fresh: Duration,
    /// Endpoints whose counters have changed since viewers were last told.
    counted: BTreeSet<EndpointId>,
    /// Endpoints whose newest observation is not saved.
    unsaved: BTreeSet<EndpointId>,
    /// True while observations are being saved.
    saving: bool,
    neighbours: Neighbours,
}

/// Why Registry did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryError {
    /// No endpoint has this id.
    NotFound(EndpointId),
    /// Another endpoint has this name already.
    NameTaken(String),
    /// Another endpoint has this address already.
    AddressTaken {
        /// The address that was given.
        base_url: String,
        /// The name of the other endpoint.
        owner: String,
    },
    /// The endpoint of this name is defined in the config file, so that the API cannot change it.
    ManagedByFile(String),
    /// Another change of the endpoint of this name is being saved.
    BeingChanged(String),
    /// The database failed to save the change.
    Store(StoreError),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistryError::NotFound(id) => write!(f, "there is no endpoint with id {id}"),
            RegistryError::NameTaken(name) => write!(f, "an endpoint named `{name}` already exists"),
            RegistryError::AddressTaken { base_url, owner } => {
                write!(f, "base_url {base_url} already belongs to endpoint `{owner}`")
            }
            RegistryError::ManagedByFile(name) => write!(f, "endpoint `{name}` is managed by the config file"),
            RegistryError::BeingChanged(name) => write!(f, "endpoint `{name}` is being changed by another request"),
            RegistryError::Store(error) => write!(f, "the endpoint could not be saved: {error}"),
        }
    }
}

impl std::error::Error for RegistryError {}

impl Registry {
    /// Creates a registry of the endpoints that the database has; a load report counts for `reports_fresh`.
    pub fn new(
        stored: Vec<StoredEndpoint>,
        prober: Prober,
        health: HealthConfig,
        reports_fresh: Duration,
        neighbours: Neighbours,
    ) -> Self {
        let mut directory = Directory::default();
        stored.iter().for_each(|stored| directory.register(stored.id, &stored.definition));
        let entries = stored.into_iter().map(|stored| (stored.id, Entry::new(stored))).collect();
        Self {
            entries,
            directory,
            next_file: None,
            catalog: Catalog::default(),
            prober,
            probes: Turns::new(PROBES_MAX),
            looks: Turns::new(PROBES_MAX),
            sync_callers: SyncCallers::default(),
            warned_of_descriptors: None,
            health,
            reports_fresh,
            counted: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            saving: false,
            neighbours,
        }
    }

    fn tell_changed(&self, updated: Vec<EndpointId>, removed: Vec<EndpointId>) {
        let facts = updated.iter().filter_map(|id| self.entries.get(id)).map(Entry::facts);
        let changed = EndpointsChanged { updated: facts.collect(), removed };
        // TpsTracker is told first, since it must know an endpoint before the first lease of the endpoint ends.
        self.neighbours.speeds.do_send(changed.clone());
        self.neighbours.dispatcher.do_send(changed);
    }

    fn publish(&self, event: Event) {
        self.neighbours.events.do_send(Publish(event));
    }

    /// Tells viewers the counters that have changed.
    fn tell_counted(&mut self, _: &mut Context<Self>) {
        for id in std::mem::take(&mut self.counted) {
            let Some(Counters { total, successful, failed }) = self.entries.get(&id).map(|entry| entry.counters) else {
                continue;
            };
            self.publish(Event::RequestsCounted(RequestsCounted {
                endpoint_id: id,
                total_requests: total,
                successful_requests: successful,
                failed_requests: failed,
            }));
        }
    }

    /// Updates the list of models after these endpoints have changed.
    fn publish_catalog(&mut self, changed: &[EndpointId]) {
        let mut is_changed = false;
        for id in changed {
            let online = self.entries.get(id).filter(|entry| entry.is_online());
            let server = online.map(|entry| Server {
                registered_at: entry.registered_at.timestamp(),
                models: Arc::new(entry.served_models()),
            });
            is_changed |= self.catalog.set(*id, server);
        }
        if is_changed {
            self.neighbours.catalog.store(Arc::new(self.catalog.list()));
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tell_changed(self.entries.keys().copied().collect(), Vec::new());
        self.probe_due(ctx);
        ctx.run_interval(self.health.interval, Self::probe_due);
        ctx.run_interval(TELL_INTERVAL, Self::tell_counted);
        ctx.run_interval(UNSETTLED_INTERVAL, Self::unsettled_due);
        ctx.run_interval(RESTARTS_INTERVAL, Self::restarts_due);
    }
}

/// Asks for all endpoints, in the order of registration.
#[derive(Message)]
#[rtype(result = "Vec<EndpointView>")]
pub struct ListEndpoints;

impl Handler<ListEndpoints> for Registry {
    type Result = MessageResult<ListEndpoints>;

    fn handle(&mut self, _: ListEndpoints, _: &mut Context<Self>) -> Self::Result {
        let mut views: Vec<EndpointView> = self.entries.values().map(Entry::view).collect();
        views.sort_by(|a, b| (a.registered_at, &a.name).cmp(&(b.registered_at, &b.name)));
        MessageResult(views)
    }
}

/// Asks for one endpoint.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct ReadEndpoint(pub EndpointId);

impl Handler<ReadEndpoint> for Registry {
    type Result = Result<EndpointView, RegistryError>;

    fn handle(&mut self, ReadEndpoint(id): ReadEndpoint, _: &mut Context<Self>) -> Self::Result {
        self.entries.get(&id).map(Entry::view).ok_or(RegistryError::NotFound(id))
    }
}

impl Handler<LeasesEnded> for Registry {
    type Result = ();

    fn handle(&mut self, LeasesEnded(ended): LeasesEnded, ctx: &mut Context<Self>) {
        ended.iter().for_each(|ended| self.count(ended, ctx));
    }
}

impl Registry {
    fn count(&mut self, ended: &EndedLease, ctx: &mut Context<Self>) {
        let id = ended.target.id;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.counters.add(Counters::of(&ended.outcome));
        self.counted.insert(id);
        if !entry.target.is_same_server(&ended.target) {
            // The lease says nothing about the endpoint's new server.
            return;
        }
        let was_well = entry.health.last_error().is_none();
        entry.health.request_ended(ended.granted, &ended.outcome);
        if !was_well || entry.health.last_error().is_some() {
            self.neighbours.events.do_send(Publish(Event::HealthChanged(entry.health_changed())));
        }
        let is_odd = ended.answered_model.as_ref().is_some_and(|model| entry.answers_oddly(model));
        if is_odd {
            let (endpoint, asked) = (&entry.definition.name, ended.request.model.as_str());
            let answered = ended.answered_model.as_ref().map(ModelId::as_str).unwrap_or_default();
            log::warn!(
                "the answer is of a model that the endpoint does not list, its models are read again \
                 endpoint={endpoint} asked={asked:?} answered={answered:?}"
            );
            self.probe(id, ctx);
        }
    }
}

impl Handler<EndpointBlamed> for Registry {
    type Result = ();

    fn handle(&mut self, EndpointBlamed(Blamed { target, since, failure }): EndpointBlamed, ctx: &mut Context<Self>) {
        let entry = self.entries.get_mut(&target.id).filter(|entry| entry.target.is_same_server(&target));
        let Some(entry) = entry else { return };
        entry.health.blamed(since, &failure);
        self.neighbours.events.do_send(Publish(Event::HealthChanged(entry.health_changed())));
        self.probe(target.id, ctx);
    }
}
