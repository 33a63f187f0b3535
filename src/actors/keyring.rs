//! Keyring: keeps the keys, and publishes the table against which requests are checked.
//!
//! A change is saved before it is answered and published. While it is being saved, other messages wait in the mailbox, so
//! that changes never overlap.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, Message, MessageResult, Recipient,
    WrapFuture,
};
use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use super::facts::KeysChanged;
use super::persistence::{SaveKeys, StoreDesk};
use crate::clock;
use crate::domain::ids::KeyId;
use crate::domain::keys::{
    GivenKey, Key, KeyChanges, KeyDefinition, KeyHash, KeyTable, Keyring as Keys, KeyringError, make_secret, shown_part,
};
use crate::domain::time::Moment;
use crate::store::StoreError;

/// The table of all valid keys. Keyring replaces it; HTTP reads it without asking an actor.
pub type PublishedKeys = ArcSwap<KeyTable>;

/// How often the times of the last uses are taken up and saved.
const USES_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two log lines about refused keys of one address.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);

/// How many addresses are remembered for this. Refused keys of further addresses are logged with the next that is known.
const ADDRESSES_MAX: usize = 1000;

/// Owns the keys.
pub struct Keyring {
    keys: Keys,
    /// Requests need a key even if there is none.
    is_required: bool,
    published: Arc<PublishedKeys>,
    store: StoreDesk,
    /// Hears of the limits of keys.
    dispatcher: Recipient<KeysChanged>,
    /// Keys whose last use is not saved.
    unsaved: BTreeSet<KeyId>,
    refused: HashMap<IpAddr, Moment>,
    /// Refused keys since the last log line about them.
    unlogged: u64,
}

/// Why Keyring did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The change is not allowed.
    Rule(KeyringError),
    /// The database failed to save the change.
    Store(StoreError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Rule(error) => error.fmt(f),
            KeyError::Store(error) => write!(f, "the key could not be saved: {error}"),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<KeyringError> for KeyError {
    fn from(error: KeyringError) -> Self {
        KeyError::Rule(error)
    }
}

/// The answer to a change, which comes once the change is saved.
type Saved<T> = AtomicResponse<Keyring, Result<T, KeyError>>;

impl Keyring {
    /// Starts with saved keys. Returns also the table that is published. Requests need a key if there is one, or if
    /// `is_required`.
    pub fn start_with(
        keys: Keys,
        is_required: bool,
        store: StoreDesk,
        dispatcher: Recipient<KeysChanged>,
    ) -> (Addr<Self>, Arc<PublishedKeys>) {
        dispatcher.do_send(limits_of(keys.list(), Vec::new()));
        let published = Arc::new(ArcSwap::from_pointee(keys.table(is_required)));
        let ring = Self {
            keys,
            is_required,
            published: published.clone(),
            store,
            dispatcher,
            unsaved: BTreeSet::new(),
            refused: HashMap::new(),
            unlogged: 0,
        };
        (ring.start(), published)
    }

    /// Saves checked changes, then takes them up and publishes them.
    fn save<T: 'static>(&mut self, checked: Result<(KeyChanges, T), KeyringError>) -> Saved<T> {
        let store = self.store.clone();
        let save = async move {
            let (changes, answer) = checked?;
            store.ask(SaveKeys(changes.clone())).await.map_err(KeyError::Store)?;
            Ok((changes, answer))
        };
        let done = |saved: Result<(KeyChanges, T), KeyError>, ring: &mut Self, _: &mut Context<Self>| {
            let (changes, answer) = saved?;
            ring.take_up_uses();
            // The dispatcher learns of a key before the first request of the key can come.
            ring.dispatcher.do_send(limits_of(&changes.saved, changes.removed.clone()));
            ring.keys.apply(changes);
            ring.published.store(Arc::new(ring.keys.table(ring.is_required)));
            Ok(answer)
        };
        AtomicResponse::new(Box::pin(save.into_actor(self).map(done)))
    }

    /// Takes up when keys were last used.
    fn take_up_uses(&mut self) {
        for (id, used) in self.published.load().uses() {
            if self.keys.note_use(id, used) {
                self.unsaved.insert(id);
            }
        }
    }

    fn save_uses(&mut self, ctx: &mut Context<Self>) {
        ctx.notify(SaveUses);
    }
}

impl Actor for Keyring {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(USES_INTERVAL, Self::save_uses);
    }
}

/// Saves when keys were last used.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SaveUses;

impl Handler<SaveUses> for Keyring {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: SaveUses, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        let saved = std::mem::take(&mut self.unsaved).into_iter().filter_map(|id| self.keys.get(id).ok().cloned());
        let changes = KeyChanges { saved: saved.collect(), removed: Vec::new() };
        let store = self.store.clone();
        let save = async move {
            let ids: Vec<KeyId> = changes.saved.iter().map(|key| key.id).collect();
            store.ask(SaveKeys(changes)).await.map_err(|error| (ids, error))
        };
        let done = |saved: Result<(), (Vec<KeyId>, StoreError)>, ring: &mut Self, _: &mut Context<Self>| {
            if let Err((ids, error)) = saved {
                log::debug!("last uses of keys not saved error=\"{error}\"");
                ring.unsaved.extend(ids);
            }
        };
        AtomicResponse::new(Box::pin(save.into_actor(self).map(done)))
    }
}

/// Asks for all keys, oldest first.
#[derive(Message)]
#[rtype(result = "Vec<Key>")]
pub struct ListKeys;

impl Handler<ListKeys> for Keyring {
    type Result = MessageResult<ListKeys>;

    fn handle(&mut self, _: ListKeys, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        MessageResult(self.keys.list().into_iter().cloned().collect())
    }
}

/// Asks for one key.
#[derive(Message)]
#[rtype(result = "Result<Key, KeyError>")]
pub struct ReadKey(pub KeyId);

impl Handler<ReadKey> for Keyring {
    type Result = Result<Key, KeyError>;

    fn handle(&mut self, ReadKey(id): ReadKey, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        Ok(self.keys.get(id)?.clone())
    }
}

/// Makes a key. The answer has its secret, which is not kept.
#[derive(Message)]
#[rtype(result = "Result<(Key, String), KeyError>")]
pub struct MakeKey(pub KeyDefinition);

impl Handler<MakeKey> for Keyring {
    type Result = Saved<(Key, String)>;

    fn handle(&mut self, MakeKey(definition): MakeKey, _: &mut Context<Self>) -> Self::Result {
        let (secret, hash) = new_secret();
        let made = self.keys.add(KeyId(Uuid::new_v4()), definition, hash, clock::wall());
        self.save(made.map(|key| (saved(&key), (key, secret))))
    }
}

/// Changes a key.
#[derive(Message)]
#[rtype(result = "Result<Key, KeyError>")]
pub struct ChangeKey {
    /// The key to change.
    pub id: KeyId,
    /// Makes the change.
    pub change: Box<dyn FnOnce(&mut KeyDefinition) + Send>,
}

impl Handler<ChangeKey> for Keyring {
    type Result = Saved<Key>;

    fn handle(&mut self, ChangeKey { id, change }: ChangeKey, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        let changed = self.keys.change(id, change, clock::wall());
        self.save(changed.map(|key| (saved(&key), key)))
    }
}

/// Removes a key, which is from then on refused.
#[derive(Message)]
#[rtype(result = "Result<(), KeyError>")]
pub struct RevokeKey(pub KeyId);

impl Handler<RevokeKey> for Keyring {
    type Result = Saved<()>;

    fn handle(&mut self, RevokeKey(id): RevokeKey, _: &mut Context<Self>) -> Self::Result {
        let removed = self.keys.remove(id, clock::wall());
        self.save(removed.map(|()| (KeyChanges { saved: Vec::new(), removed: vec![id] }, ())))
    }
}

/// Exchanges the secret of a key. The secret before stays valid for `grace`. The answer has the new secret.
#[derive(Message)]
#[rtype(result = "Result<(Key, String), KeyError>")]
pub struct RotateKey {
    /// The key whose secret is exchanged.
    pub id: KeyId,
    /// How long the secret before stays valid.
    pub grace: Duration,
}

impl Handler<RotateKey> for Keyring {
    type Result = Saved<(Key, String)>;

    fn handle(&mut self, RotateKey { id, grace }: RotateKey, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        let (secret, hash) = new_secret();
        let rotated = self.keys.rotate(id, hash, grace, clock::wall());
        self.save(rotated.map(|key| (saved(&key), (key, secret))))
    }
}

/// Applies the keys of the config file and the environment. The answer is the number of changed and of removed keys.
#[derive(Message)]
#[rtype(result = "Result<(usize, usize), KeyError>")]
pub struct ApplyGiven(pub Vec<GivenKey>);

impl Handler<ApplyGiven> for Keyring {
    type Result = Saved<(usize, usize)>;

    fn handle(&mut self, ApplyGiven(given): ApplyGiven, _: &mut Context<Self>) -> Self::Result {
        self.take_up_uses();
        let changes = self.keys.reconcile(given, clock::wall(), Uuid::new_v4);
        let numbers = (changes.saved.len(), changes.removed.len());
        self.save(Ok((changes, numbers)))
    }
}

/// Tells that a request came without a valid key, from this address if it is known.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KeyRefused(pub Option<IpAddr>);

impl Handler<KeyRefused> for Keyring {
    type Result = ();

    fn handle(&mut self, KeyRefused(address): KeyRefused, _: &mut Context<Self>) {
        self.unlogged += 1;
        let now = clock::now();
        let Some(address) = address else { return };
        if self.refused.get(&address).is_some_and(|logged| now.since(*logged) < REFUSED_INTERVAL) {
            return;
        }
        if self.refused.len() >= ADDRESSES_MAX {
            self.refused.retain(|_, logged| now.since(*logged) < REFUSED_INTERVAL);
        }
        if self.refused.len() < ADDRESSES_MAX {
            self.refused.insert(address, now);
            let refused = std::mem::take(&mut self.unlogged);
            log::warn!("request without a valid key address={address} since_last_line={refused}");
        }
    }
}

/// Returns the limits of keys that are new or have changed.
fn limits_of<'a>(keys: impl IntoIterator<Item = &'a Key>, removed: Vec<KeyId>) -> KeysChanged {
    KeysChanged { updated: keys.into_iter().map(|key| (key.id, key.definition.limits)).collect(), removed }
}

fn saved(key: &Key) -> KeyChanges {
    KeyChanges { saved: vec![key.clone()], removed: Vec::new() }
}

/// Returns a new secret with its hash and the part that lists show.
pub fn new_secret() -> (String, (KeyHash, String)) {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).expect("the system has random numbers");
    let secret = make_secret(random);
    let hash = (KeyHash::of(secret.as_bytes()), shown_part(&secret));
    (secret, hash)
}
