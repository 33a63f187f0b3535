//! Applies the endpoints of the config file when the file is read again.

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use uuid::Uuid;

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::persistence::SaveEndpoints;
use crate::actors::promise::{Caller, Promise};
use crate::clock;
use crate::domain::endpoint::EndpointDefinition;
use crate::domain::event::Event;
use crate::domain::ids::EndpointId;
use crate::domain::reconcile::{Reconciled, reconcile};

/// How many endpoints were added or changed, and how many were removed; `None` if a newer file took the place of this one
/// before it was applied.
type Applied = Result<Option<(usize, usize)>, RegistryError>;

/// Applies the endpoints of the config file as at a start. The file waits until no other change is being saved. The answer
/// comes once the file is saved. If it cannot be saved, nothing changes.
#[derive(Message)]
#[rtype(result = "Applied")]
pub struct ApplyFile(pub Vec<EndpointDefinition>);

/// A file that waits until no other change is being saved. Only the newest one waits.
pub(super) struct NextFile {
    endpoints: Vec<EndpointDefinition>,
    caller: Caller<Applied>,
}

impl Handler<ApplyFile> for Registry {
    type Result = Promise<Applied>;

    fn handle(&mut self, ApplyFile(endpoints): ApplyFile, ctx: &mut Context<Self>) -> Promise<Applied> {
        let (caller, answer) = Caller::keep();
        if let Some(older) = self.next_file.replace(NextFile { endpoints, caller }) {
            older.caller.answer(Ok(None));
        }
        self.begin_next_file(ctx);
        answer
    }
}

/// Warns the operator of each endpoint that was registered over the API and now belongs to the config file or is removed.
pub fn warn_of_removed(known: &Reconciled) {
    for name in &known.taken_over {
        log::warn!("endpoint made over the API is taken over by the config file endpoint={name}");
    }
    for name in &known.doubled {
        log::warn!("endpoint removed, another endpoint has its address endpoint={name}");
    }
}

impl Registry {
    /// Begins to apply the file that waits, if there is one and no other change is being saved. Must be called whenever a
    /// reservation ends.
    pub(super) fn begin_next_file(&mut self, ctx: &mut Context<Self>) {
        if self.directory.is_any_reserved() {
            return;
        }
        let Some(NextFile { endpoints, caller }) = self.next_file.take() else { return };
        let stored = self.entries.values().map(Entry::stored).collect();
        let known = reconcile(stored, endpoints, clock::wall(), Uuid::new_v4);
        // All names and addresses are reserved, those of removed endpoints included, so that no endpoint changes until
        // this change is saved.
        let kept = known.endpoints.iter().map(|endpoint| (endpoint.id, &endpoint.definition));
        let removed = known.removed.iter().filter_map(|id| Some((*id, &self.entries.get(id)?.definition)));
        let reserved: Vec<(EndpointId, &EndpointDefinition)> = kept.chain(removed).collect();
        self.directory.reserve_all(&reserved);
        let reserved: Vec<EndpointId> = reserved.into_iter().map(|(id, _)| id).collect();
        let store = self.neighbours.store.clone();
        let save = SaveEndpoints { saved: known.saved.clone(), removed: known.removed.clone() };
        let save = async move { store.ask(save).await.map_err(RegistryError::Store) };
        ctx.spawn(save.into_actor(self).map(move |saved, registry, ctx| {
            reserved.into_iter().for_each(|id| registry.directory.release(id));
            caller.answer(saved.map(|()| Some(registry.apply(known, ctx))));
            registry.begin_next_file(ctx);
        }));
    }

    fn apply(&mut self, known: Reconciled, ctx: &mut Context<Self>) -> (usize, usize) {
        warn_of_removed(&known);
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
