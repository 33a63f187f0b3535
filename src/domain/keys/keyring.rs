//! All keys, and the rules by which they change.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{GivenKey, Key, KeyDefinition, KeyHash, KeySource, KeyTable, check_key_name};
use crate::domain::ids::KeyId;

/// Why a key was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringError {
    /// No key has this id.
    NotFound(KeyId),
    /// Another key has this name already.
    NameTaken(String),
    /// The key of this name is defined in the config file, so that the API cannot change it.
    ManagedByFile(String),
    /// The key of this name is defined in the environment, so that the API cannot change it.
    ManagedByEnvironment(String),
    /// Without the key of this name nobody could change keys any more.
    LastAdmin(String),
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyringError::NotFound(id) => write!(f, "there is no key with id {id}"),
            KeyringError::NameTaken(name) => write!(f, "a key named `{name}` already exists"),
            KeyringError::ManagedByFile(name) => write!(f, "key `{name}` is managed by the config file"),
            KeyringError::ManagedByEnvironment(name) => write!(f, "key `{name}` is managed by the environment"),
            KeyringError::LastAdmin(name) => write!(f, "key `{name}` is the last one with the scope `admin`"),
        }
    }
}

impl std::error::Error for KeyringError {}

/// The changes that the database needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyChanges {
    /// Keys that are new or changed.
    pub saved: Vec<Key>,
    /// Keys that are gone.
    pub removed: Vec<KeyId>,
}

/// All keys. A change is first checked, which returns the changed key; then the caller saves the key and puts it here.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<KeyId, Key>,
}

impl Keyring {
    /// Creates a keyring of the keys that the database has.
    pub fn new(stored: Vec<Key>) -> Self {
        Self { keys: stored.into_iter().map(|key| (key.id, key)).collect() }
    }

    /// Returns the changes after which the keys of the config file and the environment are exactly those `given`, whose
    /// names differ. A given key keeps the id of a key with its name, which then belongs to the file or the environment.
    /// `new_id` makes the ids of new keys.
    pub fn reconcile(&self, given: Vec<GivenKey>, wall: DateTime<Utc>, mut new_id: impl FnMut() -> Uuid) -> KeyChanges {
        let mut changes = KeyChanges::default();
        for key in self.keys.values().filter(|key| key.source != KeySource::Api) {
            if !given.iter().any(|given| given.definition.name == key.definition.name) {
                changes.removed.push(key.id);
            }
        }
        for GivenKey { definition, source, hash, prefix } in given {
            let known = self.named(&definition.name);
            let (id, created_at) = known.map_or_else(|| (KeyId(new_id()), wall), |key| (key.id, key.created_at));
            let last_used_at = known.and_then(|key| key.last_used_at);
            let key = Key { id, prefix, source, definition, created_at, last_used_at, hash, old: None };
            if known != Some(&key) {
                changes.saved.push(key);
            }
        }
        changes
    }

    /// Checks a new key of the API.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add(
        &self,
        id: KeyId,
        definition: KeyDefinition,
        (hash, prefix): (KeyHash, String),
        wall: DateTime<Utc>,
    ) -> Result<Key, KeyringError> {
        self.check_name(id, &definition.name)?;
        let source = KeySource::Api;
        Ok(Key { id, prefix, source, definition, created_at: wall, last_used_at: None, hash, old: None })
    }

    /// Checks a change of a key by the API. Returns the changed key.
    ///
    /// # Errors
    /// If the API cannot change the key, the new name is taken, or no admin would be left.
    pub fn change(
        &self,
        id: KeyId,
        change: impl FnOnce(&mut KeyDefinition),
        wall: DateTime<Utc>,
    ) -> Result<Key, KeyringError> {
        let mut key = self.changeable(id)?.clone();
        let was_admin = key.definition.is_admin(wall);
        change(&mut key.definition);
        self.check_name(id, &key.definition.name)?;
        if was_admin && !key.definition.is_admin(wall) {
            self.check_admin_without(id, wall)?;
        }
        Ok(key)
    }

    /// Checks the removal of a key by the API.
    ///
    /// # Errors
    /// If the API cannot remove the key, or no admin would be left.
    pub fn remove(&self, id: KeyId, wall: DateTime<Utc>) -> Result<(), KeyringError> {
        let key = self.changeable(id)?;
        if key.definition.is_admin(wall) { self.check_admin_without(id, wall) } else { Ok(()) }
    }

    /// Checks the exchange of a key's secret by the API. Returns the changed key. The secret before stays valid for
    /// `grace`.
    ///
    /// # Errors
    /// If the API cannot change the key.
    pub fn rotate(
        &self,
        id: KeyId,
        (hash, prefix): (KeyHash, String),
        grace: Duration,
        wall: DateTime<Utc>,
    ) -> Result<Key, KeyringError> {
        let key = self.changeable(id)?;
        let old = (!grace.is_zero()).then(|| (key.hash, wall + grace));
        Ok(Key { prefix, hash, old, ..key.clone() })
    }

    /// Takes up changes that are saved.
    pub fn apply(&mut self, KeyChanges { saved, removed }: KeyChanges) {
        removed.iter().for_each(|id| drop(self.keys.remove(id)));
        self.keys.extend(saved.into_iter().map(|key| (key.id, key)));
    }

    /// Takes up when a key was last used; without effect if the key is gone. Returns whether this is news.
    pub fn note_use(&mut self, id: KeyId, used: DateTime<Utc>) -> bool {
        let key = self.keys.get_mut(&id).filter(|key| key.last_used_at.is_none_or(|last| last < used));
        let is_news = key.is_some();
        key.into_iter().for_each(|key| key.last_used_at = Some(used));
        is_news
    }

    /// Tells whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns a key.
    ///
    /// # Errors
    /// If there is no key with this id.
    pub fn get(&self, id: KeyId) -> Result<&Key, KeyringError> {
        self.keys.get(&id).ok_or(KeyringError::NotFound(id))
    }

    /// Returns the key with this name.
    pub fn named(&self, name: &str) -> Option<&Key> {
        self.keys.values().find(|key| key.definition.name == name)
    }

    /// Returns all keys, oldest first.
    pub fn list(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.keys.values().collect();
        keys.sort_by(|a, b| (a.created_at, &a.definition.name).cmp(&(b.created_at, &b.definition.name)));
        keys
    }

    /// Returns the table against which requests are checked. Requests need a key if there is one, or if `is_required`.
    pub fn table(&self, is_required: bool) -> KeyTable {
        KeyTable::new(self.keys.values(), is_required)
    }

    fn changeable(&self, id: KeyId) -> Result<&Key, KeyringError> {
        let key = self.get(id)?;
        let name = || key.definition.name.clone();
        match key.source {
            KeySource::Api => Ok(key),
            KeySource::File => Err(KeyringError::ManagedByFile(name())),
            KeySource::Env => Err(KeyringError::ManagedByEnvironment(name())),
        }
    }

    fn check_name(&self, id: KeyId, name: &str) -> Result<(), KeyringError> {
        debug_assert!(check_key_name(name).is_ok(), "names are checked where they are read");
        match self.named(name).filter(|other| other.id != id) {
            Some(_) => Err(KeyringError::NameTaken(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Checks that a key other than this one may change keys.
    fn check_admin_without(&self, id: KeyId, wall: DateTime<Utc>) -> Result<(), KeyringError> {
        let is_other_admin = |key: &Key| key.id != id && key.definition.is_admin(wall);
        if self.keys.values().any(is_other_admin) {
            return Ok(());
        }
        Err(KeyringError::LastAdmin(self.get(id)?.definition.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::keys::Scope;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time")
    }

    fn id(number: u128) -> KeyId {
        KeyId(Uuid::from_u128(number))
    }

    fn hash(secret: &str) -> (KeyHash, String) {
        (KeyHash::of(secret.as_bytes()), secret.to_owned())
    }

    fn admin(name: &str) -> KeyDefinition {
        KeyDefinition { scopes: [Scope::Admin].into(), ..KeyDefinition::new(name) }
    }

    fn given(definition: KeyDefinition, source: KeySource, secret: &str) -> GivenKey {
        let (hash, prefix) = hash(secret);
        GivenKey { definition, source, hash, prefix }
    }

    /// A keyring with an admin of the API (1) and a key for inference (2).
    fn ring() -> Keyring {
        let mut ring = Keyring::default();
        for (number, definition) in [(1, admin("root")), (2, KeyDefinition::new("chat"))] {
            let key = ring.add(id(number), definition, hash(&number.to_string()), at(0)).expect("a new name");
            ring.apply(KeyChanges { saved: vec![key], removed: Vec::new() });
        }
        ring
    }

    #[test]
    fn names_are_unique() {
        let ring = ring();
        let taken = Err(KeyringError::NameTaken("chat".to_owned()));
        assert_eq!(ring.add(id(3), KeyDefinition::new("chat"), hash("3"), at(0)).map(|key| key.id), taken);
        assert_eq!(ring.change(id(1), |key| key.name = "chat".to_owned(), at(0)).map(|key| key.id), taken);
        assert!(ring.change(id(2), |key| key.enabled = false, at(0)).is_ok(), "its own name is not taken");
    }

    #[test]
    fn somebody_must_stay_admin() {
        let ring = ring();
        let last = || KeyringError::LastAdmin("root".to_owned());
        assert_eq!(ring.remove(id(1), at(0)), Err(last()));
        for demote in [
            (|key: &mut KeyDefinition| key.scopes.clear()) as fn(&mut KeyDefinition),
            |key| key.enabled = false,
            |key| key.expires_at = Some(at(0)),
        ] {
            assert_eq!(ring.change(id(1), demote, at(0)), Err(last()));
        }
        assert!(ring.change(id(1), |key| key.name = "boss".to_owned(), at(0)).is_ok());
        assert_eq!(ring.remove(id(2), at(0)), Ok(()));
        let mut with_file = ring.clone();
        let changes =
            with_file.reconcile(vec![given(admin("file"), KeySource::File, "f")], at(0), || Uuid::from_u128(9));
        with_file.apply(changes);
        assert_eq!(with_file.remove(id(1), at(0)), Ok(()));
    }

    #[test]
    fn only_the_file_changes_what_it_defines() {
        let mut ring = ring();
        let boss = given(admin("boss"), KeySource::Env, "boss's secret");
        let chat = given(KeyDefinition::new("chat"), KeySource::File, "another");
        let changes = ring.reconcile(vec![boss.clone(), chat.clone()], at(5), || Uuid::from_u128(9));
        let saved: Vec<_> = changes.saved.iter().map(|key| (key.id, key.created_at, key.source)).collect();
        assert_eq!(saved, [(id(9), at(5), KeySource::Env), (id(2), at(0), KeySource::File)]);
        ring.apply(changes);
        let again = ring.reconcile(vec![boss.clone(), chat], at(6), Uuid::new_v4);
        assert_eq!(again, KeyChanges::default(), "nothing has changed");
        assert_eq!(ring.remove(id(2), at(6)), Err(KeyringError::ManagedByFile("chat".to_owned())));
        let turned = ring.rotate(id(9), hash("x"), Duration::ZERO, at(6)).map(|key| key.id);
        assert_eq!(turned, Err(KeyringError::ManagedByEnvironment("boss".to_owned())));
        let changes = ring.reconcile(vec![boss], at(7), Uuid::new_v4);
        assert_eq!(changes, KeyChanges { saved: Vec::new(), removed: vec![id(2)] }, "the API's keys stay");
    }

    #[test]
    fn a_rotated_secret_is_valid_for_the_grace() {
        let mut ring = ring();
        let key = ring.rotate(id(2), hash("new"), Duration::from_secs(10), at(100)).expect("the API's own");
        ring.apply(KeyChanges { saved: vec![key], removed: Vec::new() });
        let valid =
            |ring: &Keyring, secret: &str, second| ring.table(false).find(secret.as_bytes(), at(second)).is_some();
        assert!(valid(&ring, "new", 100) && valid(&ring, "2", 109) && !valid(&ring, "2", 110));
        let key = ring.rotate(id(2), hash("newer"), Duration::ZERO, at(101)).expect("the API's own");
        ring.apply(KeyChanges { saved: vec![key], removed: Vec::new() });
        assert!(valid(&ring, "newer", 101) && !valid(&ring, "new", 101) && !valid(&ring, "2", 101));
    }

    #[test]
    fn the_newest_use_is_kept() {
        let mut ring = ring();
        assert!(ring.note_use(id(2), at(5)) && !ring.note_use(id(2), at(4)));
        assert!(!ring.note_use(id(3), at(5)), "it is gone");
        assert_eq!(ring.get(id(2)).expect("there").last_used_at, Some(at(5)));
    }
}
