//! Syncs: probes that an operator asks for in order to read an endpoint's models anew.

use std::collections::HashMap;

use actix::{Context, Handler, Message};

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::promise::{Caller, Promise};
use crate::domain::endpoint::EndpointView;
use crate::domain::ids::EndpointId;

type Synced = Result<EndpointView, RegistryError>;

/// Probes an endpoint and reads its models anew. The answer comes after the probe and shows its result. One probe answers
/// all callers who asked for it before it began.
#[derive(Message)]
#[rtype(result = "Synced")]
pub struct SyncEndpoint(pub EndpointId);

impl Handler<SyncEndpoint> for Registry {
    type Result = Promise<Synced>;

    fn handle(&mut self, SyncEndpoint(id): SyncEndpoint, ctx: &mut Context<Self>) -> Promise<Synced> {
        if !self.entries.contains_key(&id) {
            return Promise::Now(Err(RegistryError::NotFound(id)));
        }
        let (caller, answer) = Caller::keep();
        self.sync_callers.add(id, caller);
        self.probe(id, ctx);
        answer
    }
}

/// The callers who wait for an endpoint's next probe to begin.
#[derive(Default)]
pub(super) struct SyncCallers(HashMap<EndpointId, Vec<Caller<Synced>>>);

impl SyncCallers {
    /// Adds a caller. A list that is full drops the callers that have gone before it grows: it is never longer than twice
    /// the number of its callers that still wait, and each of these holds a connection.
    fn add(&mut self, id: EndpointId, caller: Caller<Synced>) {
        let callers = self.0.entry(id).or_default();
        if callers.len() == callers.capacity() {
            callers.retain(|caller| !caller.has_gone());
        }
        callers.push(caller);
    }

    /// Takes out the callers who wait for this endpoint.
    pub(super) fn take(&mut self, id: EndpointId) -> Vec<Caller<Synced>> {
        self.0.remove(&id).unwrap_or_default()
    }
}

impl Registry {
    /// Answers callers with the present view of their endpoint, or that the endpoint is gone.
    pub(super) fn answer_syncs(&self, id: EndpointId, callers: Vec<Caller<Synced>>) {
        let synced = self.entries.get(&id).map(Entry::view).ok_or(RegistryError::NotFound(id));
        callers.into_iter().for_each(|caller| caller.answer(synced.clone()));
    }
}
