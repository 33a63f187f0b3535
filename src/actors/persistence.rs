//! Persistence: executes, on a thread of its own, what others want stored. It decides nothing and owns nothing.

use actix::{Actor, Handler, Message, Recipient, SyncContext};

use crate::domain::ids::EndpointId;
use crate::store::endpoints::{Counters, Observation, StoredEndpoint};
use crate::store::{Store, StoreError};

/// The one writer of the database.
pub struct Persistence {
    store: Store,
}

impl Persistence {
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Actor for Persistence {
    type Context = SyncContext<Self>;
}

/// Saves the definitions of endpoints and removes others.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct SaveEndpoints {
    pub saved: Vec<StoredEndpoint>,
    pub removed: Vec<EndpointId>,
}

impl Handler<SaveEndpoints> for Persistence {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, message: SaveEndpoints, _: &mut SyncContext<Self>) -> Self::Result {
        self.store.save_endpoints(&message.saved, &message.removed)
    }
}

/// Saves what was observed of an endpoint.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SaveObservation {
    pub id: EndpointId,
    pub observation: Observation,
}

impl Handler<SaveObservation> for Persistence {
    type Result = ();

    fn handle(&mut self, message: SaveObservation, _: &mut SyncContext<Self>) {
        if let Err(error) = self.store.save_observation(message.id, &message.observation) {
            log::warn!("observation not saved endpoint_id={} error={error}", message.id);
        }
    }
}

/// Adds to counters and tells `done` how it went.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WriteBatch {
    pub counters: Vec<(EndpointId, Counters)>,
    pub done: Recipient<BatchDone>,
}

/// Tells how a [`WriteBatch`] went.
#[derive(Message)]
#[rtype(result = "()")]
pub enum BatchDone {
    Written,
    /// Nothing of it was written.
    Failed(Vec<(EndpointId, Counters)>, StoreError),
}

impl Handler<WriteBatch> for Persistence {
    type Result = ();

    fn handle(&mut self, batch: WriteBatch, _: &mut SyncContext<Self>) {
        batch.done.do_send(match self.store.add_counters(&batch.counters) {
            Ok(()) => BatchDone::Written,
            Err(error) => BatchDone::Failed(batch.counters, error),
        });
    }
}

/// Leaves the database file whole. Answered after everything sent before it was executed.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Checkpoint;

impl Handler<Checkpoint> for Persistence {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: Checkpoint, _: &mut SyncContext<Self>) -> Self::Result {
        self.store.checkpoint()
    }
}

/// Asks whether the database answers. Answered after everything sent before it was executed.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct PingStore;

impl Handler<PingStore> for Persistence {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: PingStore, _: &mut SyncContext<Self>) -> Self::Result {
        self.store.ping()
    }
}
