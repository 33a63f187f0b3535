//! Applies the endpoints of the config file when the file is read again.

use actix::{ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use uuid::Uuid;

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::persistence::SaveEndpoints;
use crate::clock;
use crate::domain::endpoint::EndpointDefinition;
use crate::domain::event::Event;
use crate::domain::ids::EndpointId;
use crate::domain::reconcile::{Reconciled, reconcile};

/// Applies the endpoints of the config file as at a start. The answer comes once the change is saved: how many endpoints were
/// added or changed, and how many were removed. If the change cannot be saved, nothing changes.
#[derive(Message)]
#[rtype(result = "Result<(usize, usize), RegistryError>")]
pub struct ApplyFile(pub Vec<EndpointDefinition>);

impl Handler<ApplyFile> for Registry {
    type Result = ResponseActFuture<Self, Result<(usize, usize), RegistryError>>;

    fn handle(&mut self, ApplyFile(file): ApplyFile, _: &mut Context<Self>) -> Self::Result {
        if let Some(name) = self.directory.any_reserved() {
            let error = RegistryError::BeingChanged(name.to_owned());
            return async move { Err(error) }.into_actor(self).boxed_local();
        }
        let stored = self.entries.values().map(Entry::stored).collect();
        let known = reconcile(stored, file, clock::wall(), Uuid::new_v4);
        // All names and addresses are reserved, so that no endpoint changes until this change is saved.
        let all = known.endpoints.iter().map(|endpoint| (endpoint.id, &endpoint.definition));
        self.directory.reserve_all(all);
        let store = self.neighbours.store.clone();
        let save = SaveEndpoints { saved: known.saved.clone(), removed: known.removed.clone() };
        let save = async move { store.ask(save).await.map_err(RegistryError::Store) };
        let apply = move |saved: Result<(), RegistryError>, registry: &mut Self, ctx: &mut Context<Self>| {
            registry.directory.release_all();
            saved.map(|()| registry.apply(known, ctx))
        };
        save.into_actor(self).map(apply).boxed_local()
    }
}

/// Warns the operator of each endpoint that was registered over the API and now belongs to the config file.
pub fn warn_of_taken_over(known: &Reconciled) {
    for name in &known.taken_over {
        log::warn!("endpoint made over the API is taken over by the config file endpoint={name}");
    }
}

impl Registry {
    fn apply(&mut self, known: Reconciled, ctx: &mut Context<Self>) -> (usize, usize) {
        warn_of_taken_over(&known);
        let mut updated: Vec<EndpointId> = Vec::new();
        for endpoint in known.endpoints {
            let id = endpoint.id;
            let is_same = |entry: &Entry| entry.definition == endpoint.definition && entry.source == endpoint.source;
            let event = match self.entries.get(&id) {
                Some(entry) if is_same(entry) => continue,
                Some(_) => self.redefine(id, endpoint.definition, endpoint.source).map(Event::changed),
                None => {
                    let entry = Entry::new(endpoint);
                    let event = Event::registered(entry.view());
                    self.directory.register(id, &entry.definition);
                    self.entries.insert(id, entry);
                    Some(event)
                }
            };
            event.into_iter().for_each(|event| self.publish(event));
            updated.push(id);
        }
        for id in &known.removed {
            self.forget(*id);
        }
        let counts = (updated.len(), known.removed.len());
        self.publish_catalog(&updated);
        self.tell_changed(updated.clone(), known.removed);
        for id in updated {
            self.probe(id, ctx);
        }
        counts
    }
}
