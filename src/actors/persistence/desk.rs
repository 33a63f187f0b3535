//! The desk in front of the writer: takes the questions that clients cause to the database, and bounds their number.

use std::sync::Arc;

use actix::{Addr, Handler, Message, SyncContext};
use chrono::NaiveDate;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Persistence;
use crate::domain::history::DailySums;
use crate::domain::ids::{EndpointId, KeyId, ModelId};
use crate::domain::key_use::KeyUse;
use crate::domain::keys::KeyChanges;
use crate::domain::stored_endpoint::StoredEndpoint;
use crate::store::{Store, StoreError};

/// The most questions that wait for the writer or are being answered at one time.
///
/// The queue of a `SyncArbiter` has no limit, and a question stays in it although its client has left. The messages that
/// actors send to the writer on their own need no such bound: each actor has at most one message of a kind on its way.
const QUESTIONS_MAX: usize = 256;

/// A question to the database that a client can cause.
pub trait Question: Send + 'static {
    /// The answer if the database does not fail.
    type Answer: Send + 'static;

    /// Asks the database.
    ///
    /// # Errors
    /// If the database fails.
    fn put(self, store: &mut Store) -> Result<Self::Answer, StoreError>;
}

/// Takes questions to the writer. Clones are cheap and share the bound.
#[derive(Clone)]
pub struct StoreDesk {
    persistence: Addr<Persistence>,
    room: Arc<Semaphore>,
}

impl StoreDesk {
    /// Opens a desk in front of the writer.
    pub fn new(persistence: Addr<Persistence>) -> Self {
        Self { persistence, room: Arc::new(Semaphore::new(QUESTIONS_MAX)) }
    }

    /// Asks the database.
    ///
    /// # Errors
    /// If the database fails, or `QUESTIONS_MAX` other questions wait.
    pub async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer, StoreError> {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            return Err(StoreError::Query(format!("{QUESTIONS_MAX} others wait for the database")));
        };
        let stopping = Err(StoreError::Query("Leaseway is stopping".to_owned()));
        self.persistence.send(Asked { question, _place: place }).await.unwrap_or(stopping)
    }
}

/// A question and its place among [`QUESTIONS_MAX`], which it keeps until it has been answered.
struct Asked<Q> {
    question: Q,
    _place: OwnedSemaphorePermit,
}

impl<Q: Question> Message for Asked<Q> {
    type Result = Result<Q::Answer, StoreError>;
}

impl<Q: Question> Handler<Asked<Q>> for Persistence {
    type Result = Result<Q::Answer, StoreError>;

    fn handle(&mut self, asked: Asked<Q>, _: &mut SyncContext<Self>) -> Self::Result {
        asked.question.put(&mut self.store)
    }
}

/// Saves the definitions of some endpoints and removes other endpoints, all or nothing.
pub struct SaveEndpoints {
    /// Endpoints that are new or changed.
    pub saved: Vec<StoredEndpoint>,
    /// Endpoints to remove.
    pub removed: Vec<EndpointId>,
}

impl Question for SaveEndpoints {
    type Answer = ();

    fn put(self, store: &mut Store) -> Result<(), StoreError> {
        store.save_endpoints(&self.saved, &self.removed)
    }
}

/// Saves changes of keys, all or nothing.
pub struct SaveKeys(pub KeyChanges);

impl Question for SaveKeys {
    type Answer = ();

    fn put(self, store: &mut Store) -> Result<(), StoreError> {
        store.save_keys(&self.0)
    }
}

/// Asks for the sums of all days by model: of one endpoint, or, with `None`, of all endpoints, removed ones included.
pub struct ReadModelSums(pub Option<EndpointId>);

impl Question for ReadModelSums {
    type Answer = Vec<(ModelId, DailySums)>;

    fn put(self, store: &mut Store) -> Result<Self::Answer, StoreError> {
        store.load_model_sums(self.0)
    }
}

/// Asks for the sums of an endpoint by day, from `first` on, oldest first.
pub struct ReadDays {
    /// The endpoint whose days are asked for.
    pub endpoint: EndpointId,
    /// The first day that is asked for.
    pub first: NaiveDate,
}

impl Question for ReadDays {
    type Answer = Vec<(NaiveDate, DailySums)>;

    fn put(self, store: &mut Store) -> Result<Self::Answer, StoreError> {
        store.load_days(self.endpoint, self.first)
    }
}

/// Asks for the use of a key by day and model, from `first` on, oldest first.
pub struct ReadKeyUse {
    /// The key.
    pub key: KeyId,
    /// The first day that is asked for.
    pub first: NaiveDate,
}

impl Question for ReadKeyUse {
    type Answer = Vec<(NaiveDate, ModelId, KeyUse)>;

    fn put(self, store: &mut Store) -> Result<Self::Answer, StoreError> {
        store.load_key_use(self.key, self.first)
    }
}

/// Asks whether the database answers.
pub struct PingStore;

impl Question for PingStore {
    type Answer = ();

    fn put(self, store: &mut Store) -> Result<(), StoreError> {
        store.ping()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::super::Checkpoint;
    use super::*;

    /// Holds the writer until the test lets it go.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hold(mpsc::Receiver<()>);

    impl Handler<Hold> for Persistence {
        type Result = ();

        fn handle(&mut self, Hold(release): Hold, _: &mut SyncContext<Self>) {
            release.recv().expect("released");
        }
    }

    #[actix::test]
    async fn questions_from_outside_are_bounded_also_those_whose_client_has_left() {
        let persistence = Persistence::start(Store::open("sqlite://:memory:").expect("a database in memory"));
        let desk = StoreDesk::new(persistence.clone());
        let (release, held) = mpsc::channel();
        persistence.do_send(Hold(held));
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(desk.ask(PingStore).now_or_never(), None, "it waits, and its client leaves");
        }
        let refused = desk.ask(PingStore).now_or_never().expect("answered at once");
        assert_eq!(refused, Err(StoreError::Query("256 others wait for the database".to_owned())));
        release.send(()).expect("still held");
        persistence.send(Checkpoint).await.expect("alive").expect("after those before it");
        assert_eq!(desk.ask(PingStore).await, Ok(()));
    }
}
