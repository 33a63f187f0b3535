//! Registration, change and removal of endpoints.

use actix::{ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use uuid::Uuid;

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::persistence::SaveEndpoints;
use crate::clock;
use crate::domain::directory::Taken;
use crate::domain::endpoint::{EndpointDefinition, EndpointKind, EndpointSource, EndpointView, root_url};
use crate::domain::event::Event;
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::StoredEndpoint;

/// The result of a change, which comes once the change is saved.
type Saved<T> = ResponseActFuture<Registry, Result<T, RegistryError>>;

/// Asks whether a name and an address are free, before the address itself is asked anything.
#[derive(Message)]
#[rtype(result = "Result<(), RegistryError>")]
pub struct CheckFree {
    /// The endpoint that is to have them; `None` for a new one.
    pub id: Option<EndpointId>,
    /// The name; `None` if the endpoint keeps its name.
    pub name: Option<String>,
    /// The address.
    pub base_url: String,
}

impl Handler<CheckFree> for Registry {
    type Result = Result<(), RegistryError>;

    fn handle(&mut self, CheckFree { id, name, base_url }: CheckFree, _: &mut Context<Self>) -> Self::Result {
        let checked = self.directory.check_free(id, name.as_deref(), &root_url(&base_url));
        checked.map_err(|taken| is_taken(taken, name.unwrap_or_default(), base_url))
    }
}

/// Registers an endpoint. The answer comes once the endpoint is saved.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct RegisterEndpoint(pub EndpointDefinition);

impl Handler<RegisterEndpoint> for Registry {
    type Result = Saved<EndpointView>;

    fn handle(&mut self, RegisterEndpoint(definition): RegisterEndpoint, _: &mut Context<Self>) -> Self::Result {
        let id = EndpointId(Uuid::new_v4());
        let stored = StoredEndpoint::new(id, definition, EndpointSource::Api, clock::wall());
        let change = self.reserve(id, &stored.definition);
        let save = change.map(|()| (id, SaveEndpoints { saved: vec![stored.clone()], removed: Vec::new() }));
        self.save(save, move |registry, ctx| {
            let entry = Entry::new(stored);
            let view = entry.view();
            log::info!("endpoint registered endpoint={} base_url={}", view.name, view.base_url);
            registry.directory.register(id, &entry.definition);
            registry.entries.insert(id, entry);
            registry.tell_changed(vec![id], Vec::new());
            registry.publish(Event::registered(view.clone()));
            registry.probe(id, ctx);
            Ok(view)
        })
    }
}

/// A change of an endpoint; a field that is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// The new name.
    pub name: Option<String>,
    /// The new address.
    pub base_url: Option<String>,
    /// The new kind; `Some(None)` if Leaseway must detect it.
    pub kind: Option<Option<EndpointKind>>,
    /// The new number of slots; `Some(None)` for as many as the engine tells.
    pub max_concurrency: Option<Option<u32>>,
    /// The new score, 0 to 10000; `Some(None)` for no score.
    pub capability_score: Option<Option<u32>>,
    /// The new key; `Some(None)` for no key.
    pub api_key: Option<Option<String>>,
    /// The only models that the endpoint may serve; empty for all that it lists.
    pub allowed_models: Option<Vec<String>>,
}

impl EndpointChange {
    /// Returns the changed definition. A new address drops the old key, which belongs to the old address, unless the change also
    /// gives a key.
    fn apply(self, to: &EndpointDefinition) -> EndpointDefinition {
        let keeps_address = self.base_url.as_ref().is_none_or(|new| root_url(new) == to.root_url());
        let kept_key = to.api_key.clone().filter(|_| keeps_address);
        EndpointDefinition {
            name: self.name.unwrap_or_else(|| to.name.clone()),
            base_url: self.base_url.unwrap_or_else(|| to.base_url.clone()),
            kind: self.kind.unwrap_or(to.kind),
            max_concurrency: self.max_concurrency.unwrap_or(to.max_concurrency),
            capability_score: self.capability_score.unwrap_or(to.capability_score),
            api_key: self.api_key.unwrap_or(kept_key),
            allowed_models: self.allowed_models.unwrap_or_else(|| to.allowed_models.clone()),
        }
    }
}

/// Changes an endpoint. The answer comes once the change is saved.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct UpdateEndpoint {
    /// The endpoint to change.
    pub id: EndpointId,
    /// The fields to change.
    pub change: EndpointChange,
}

impl Handler<UpdateEndpoint> for Registry {
    type Result = Saved<EndpointView>;

    fn handle(&mut self, UpdateEndpoint { id, change }: UpdateEndpoint, _: &mut Context<Self>) -> Self::Result {
        let change = self.changeable(id).map(|entry| {
            let mut stored = entry.stored();
            stored.definition = change.apply(&stored.definition);
            stored
        });
        let change = change.and_then(|stored| self.reserve(id, &stored.definition).map(|()| stored));
        let definition = change.as_ref().ok().map(|stored| stored.definition.clone());
        let save = change.map(|stored| (id, SaveEndpoints { saved: vec![stored], removed: Vec::new() }));
        self.save(save, move |registry, ctx| {
            let definition = definition.ok_or(RegistryError::NotFound(id))?;
            let view = registry.redefine(id, definition, EndpointSource::Api).ok_or(RegistryError::NotFound(id))?;
            log::info!("endpoint changed endpoint={} base_url={}", view.name, view.base_url);
            registry.publish_catalog(&[id]);
            registry.tell_changed(vec![id], Vec::new());
            registry.publish(Event::changed(view.clone()));
            registry.probe(id, ctx);
            Ok(view)
        })
    }
}

/// Removes an endpoint. The answer comes once it is gone from the database. Its running requests go on.
#[derive(Message)]
#[rtype(result = "Result<(), RegistryError>")]
pub struct RemoveEndpoint(pub EndpointId);

impl Handler<RemoveEndpoint> for Registry {
    type Result = Saved<()>;

    fn handle(&mut self, RemoveEndpoint(id): RemoveEndpoint, _: &mut Context<Self>) -> Self::Result {
        let definition = self.changeable(id).map(|entry| entry.definition.clone());
        let change = definition.and_then(|definition| self.reserve(id, &definition));
        let save = change.map(|()| (id, SaveEndpoints { saved: Vec::new(), removed: vec![id] }));
        self.save(save, move |registry, _| {
            if let Some(entry) = registry.forget(id) {
                log::info!("endpoint removed endpoint={}", entry.definition.name);
            }
            registry.tell_changed(Vec::new(), vec![id]);
            Ok(())
        })
    }
}

impl Registry {
    /// Returns an endpoint if the API may change it now.
    fn changeable(&self, id: EndpointId) -> Result<&Entry, RegistryError> {
        let entry = self.entries.get(&id).ok_or(RegistryError::NotFound(id))?;
        let name = || entry.definition.name.clone();
        if entry.source == EndpointSource::File {
            return Err(RegistryError::ManagedByFile(name()));
        }
        if self.directory.is_reserved(id) {
            return Err(RegistryError::BeingChanged(name()));
        }
        Ok(entry)
    }

    /// Changes an endpoint in memory and returns its view; `None` if the endpoint is gone.
    pub(super) fn redefine(
        &mut self,
        id: EndpointId,
        definition: EndpointDefinition,
        source: EndpointSource,
    ) -> Option<EndpointView> {
        let entry = self.entries.get_mut(&id)?;
        if entry.redefine(definition, source) {
            // Probes and looks that are under way ask the old server.
            self.probes.forget(id);
            self.looks.forget(id);
        }
        self.directory.register(id, &entry.definition);
        Some(entry.view())
    }

    /// Removes an endpoint from memory. The caller must tell the dispatcher.
    pub(super) fn forget(&mut self, id: EndpointId) -> Option<Entry> {
        let entry = self.entries.remove(&id);
        self.directory.remove(id);
        self.probes.forget(id);
        self.looks.forget(id);
        let callers = self.sync_callers.take(id);
        self.answer_syncs(id, callers);
        self.counted.remove(&id);
        self.unsaved.remove(&id);
        self.publish_catalog(&[id]);
        self.publish(Event::EndpointRemoved { endpoint_id: id });
        entry
    }

    /// Reserves the name and the address of a definition until the change is saved.
    fn reserve(&mut self, id: EndpointId, definition: &EndpointDefinition) -> Result<(), RegistryError> {
        let reserved = self.directory.reserve(id, definition);
        reserved.map_err(|taken| is_taken(taken, definition.name.clone(), definition.base_url.clone()))
    }

    /// Saves a reserved change, frees the reservation, and, if the change is saved, makes it in memory with `apply`.
    fn save<T: 'static>(
        &self,
        change: Result<(EndpointId, SaveEndpoints), RegistryError>,
        apply: impl FnOnce(&mut Self, &mut Context<Self>) -> Result<T, RegistryError> + 'static,
    ) -> Saved<T> {
        let store = self.neighbours.store.clone();
        let reserved = change.as_ref().ok().map(|(id, _)| *id);
        let save = async move {
            let (_, save) = change?;
            store.ask(save).await.map_err(RegistryError::Store)
        };
        let done = move |saved: Result<(), RegistryError>, registry: &mut Self, ctx: &mut Context<Self>| {
            reserved.into_iter().for_each(|id| registry.directory.release(id));
            let applied = saved.and_then(|()| apply(registry, ctx));
            registry.begin_next_file(ctx);
            applied
        };
        save.into_actor(self).map(done).boxed_local()
    }
}

fn is_taken(taken: Taken, name: String, base_url: String) -> RegistryError {
    match taken {
        Taken::Name => RegistryError::NameTaken(name),
        Taken::Address { owner } => RegistryError::AddressTaken { base_url, owner },
    }
}
