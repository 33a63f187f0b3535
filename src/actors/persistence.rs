//! Persistence: writes and reads the database for the other actors, on a thread of its own. It makes no decisions and keeps
//! no state but the connection.

mod desk;

use std::sync::Mutex;

use actix::{Actor, Addr, Handler, Message, Recipient, SyncArbiter, SyncContext};

pub use self::desk::{PingStore, Question, ReadDays, ReadKeyUse, ReadModelSums, SaveEndpoints, SaveKeys, StoreDesk};
use crate::domain::history::Batch;
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::Observation;
use crate::store::retention::Kept;
use crate::store::{Store, StoreError};

/// The only writer of the database.
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

/// Saves what was observed of endpoints, and tells `done` whether it was saved.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SaveObservations {
    /// The newest observation of each endpoint.
    pub observed: Vec<(EndpointId, Observation)>,
    /// Is told once the database has saved the observations, or has failed.
    pub done: Recipient<ObservationsSaved>,
}

/// The outcome of a [`SaveObservations`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct ObservationsSaved {
    /// The endpoints whose observations were not saved: either all of the message or none.
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

/// Writes a batch of history and tells `done` whether it was written.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WriteBatch {
    /// The batch to write, in one transaction.
    pub batch: Batch,
    /// Is told once the batch is written, or gets it back.
    pub done: Recipient<BatchDone>,
}

/// The outcome of a [`WriteBatch`].
#[derive(Message)]
#[rtype(result = "()")]
pub enum BatchDone {
    /// The whole batch was written.
    Written,
    /// Nothing of the batch was written, for this reason.
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

/// Removes some of the history that is no longer kept, and tells `done` whether more is left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RemoveOld {
    /// The history that must stay.
    pub kept: Kept,
    /// Is told whether more is left to remove.
    pub done: Recipient<OldRemoved>,
}

/// The outcome of a [`RemoveOld`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct OldRemoved {
    /// True if rows are left to remove; the error if the removal failed.
    pub are_left: Result<bool, StoreError>,
}

impl Handler<RemoveOld> for Persistence {
    type Result = ();

    fn handle(&mut self, RemoveOld { kept, done }: RemoveOld, _: &mut SyncContext<Self>) {
        done.do_send(OldRemoved { are_left: self.store.remove_old(kept) });
    }
}

/// Moves the write-ahead log into the database file, so that a copy of the file is whole. The answer comes after everything
/// that was sent before has been executed.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Checkpoint;

impl Handler<Checkpoint> for Persistence {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: Checkpoint, _: &mut SyncContext<Self>) -> Self::Result {
        self.store.checkpoint()
    }
}
