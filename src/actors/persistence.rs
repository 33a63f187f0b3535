//! Persistence: executes, on a thread of its own, what others want stored. It decides nothing and owns nothing.

mod desk;

use std::sync::Mutex;

use actix::{Actor, Addr, Handler, Message, Recipient, SyncArbiter, SyncContext};

pub use self::desk::{PingStore, Question, ReadDays, ReadModelSums, SaveEndpoints, StoreDesk};
use crate::domain::history::Batch;
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::Observation;
use crate::store::retention::Kept;
use crate::store::{Store, StoreError};

/// The one writer of the database.
pub struct Persistence {
    store: Store,
}

impl Persistence {
    /// Starts the writer on a thread of its own.
    pub fn start(store: Store) -> Addr<Self> {
        let store = Mutex::new(Some(store));
        SyncArbiter::start(1, move || {
            let mut store = store.lock().expect("nothing panics while it is locked");
            Self { store: store.take().expect("one thread makes one writer") }
        })
    }
}

impl Actor for Persistence {
    type Context = SyncContext<Self>;
}

/// Saves what was observed of endpoints, and tells `done` how it went.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SaveObservations {
    pub observed: Vec<(EndpointId, Observation)>,
    pub done: Recipient<ObservationsSaved>,
}

/// Tells how a [`SaveObservations`] went.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ObservationsSaved {
    /// Those of which nothing was saved, all or none.
    pub unsaved: Vec<EndpointId>,
}

impl Handler<SaveObservations> for Persistence {
    type Result = ();

    fn handle(&mut self, SaveObservations { observed, done }: SaveObservations, _: &mut SyncContext<Self>) {
        let unsaved = match self.store.save_observations(&observed) {
            Ok(()) => Vec::new(),
            Err(error) => {
                log::debug!("observations not saved error=\"{error}\"");
                observed.into_iter().map(|(id, _)| id).collect()
            }
        };
        done.do_send(ObservationsSaved { unsaved });
    }
}

/// Writes a batch and tells `done` how it went.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WriteBatch {
    pub batch: Batch,
    pub done: Recipient<BatchDone>,
}

/// Tells how a [`WriteBatch`] went.
#[derive(Message)]
#[rtype(result = "()")]
pub enum BatchDone {
    Written,
    /// Nothing of it was written.
    Failed(Box<Batch>, StoreError),
}

impl Handler<WriteBatch> for Persistence {
    type Result = ();

    fn handle(&mut self, WriteBatch { batch, done }: WriteBatch, _: &mut SyncContext<Self>) {
        done.do_send(match self.store.write_batch(&batch) {
            Ok(()) => BatchDone::Written,
            Err(error) => BatchDone::Failed(Box::new(batch), error),
        });
    }
}

/// Removes a little of the history that is not to be kept, and tells `done` whether more is left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RemoveOld {
    pub kept: Kept,
    pub done: Recipient<OldRemoved>,
}

/// Tells how a [`RemoveOld`] went.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OldRemoved {
    pub are_left: Result<bool, StoreError>,
}

impl Handler<RemoveOld> for Persistence {
    type Result = ();

    fn handle(&mut self, RemoveOld { kept, done }: RemoveOld, _: &mut SyncContext<Self>) {
        done.do_send(OldRemoved { are_left: self.store.remove_old(kept) });
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
