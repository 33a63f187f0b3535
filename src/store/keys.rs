//! The table `keys`: the keys of clients and operators, without their secrets.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use uuid::Uuid;

use super::schema::{keys, secrets};
use super::{Store, StoreError};
use crate::domain::ids::KeyId;
use crate::domain::keys::{Key, KeyChanges, KeyDefinition, KeyHash, KeyLimits, KeySource, Scope};

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = keys)]
#[diesel(treat_none_as_null = true)]
struct KeyRow {
    id: String,
    name: String,
    prefix: String,
    source: String,
    hash: String,
    old_hash: Option<String>,
    old_until: Option<i64>,
    scopes: String,
    models: String,
    expires_at: Option<i64>,
    enabled: bool,
    requests_per_minute: Option<i64>,
    tokens_per_minute: Option<i64>,
    tokens_per_day: Option<i64>,
    max_concurrency: Option<i64>,
    max_waiting: Option<i64>,
    trusts_client_header: bool,
    created_at: i64,
    last_used_at: Option<i64>,
}

impl Store {
    /// Reads every key, oldest first.
    ///
    /// # Errors
    /// If the database fails or a row cannot be read. A key that was left out could make what it protects open.
    pub fn load_keys(&mut self) -> Result<Vec<Key>, StoreError> {
        let rows = keys::table
            .order((keys::created_at, keys::id))
            .select(KeyRow::as_select())
            .load(&mut *self.connection()?)?;
        rows.into_iter().map(|row| row.into_key().map_err(StoreError::Query)).collect()
    }

    /// Returns the secret by which sessions are signed. If there is none, `new` becomes it.
    ///
    /// # Errors
    /// If the database fails.
    pub fn session_secret(&mut self, new: &str) -> Result<String, StoreError> {
        self.write(|connection| {
            let row = (secrets::name.eq("sessions"), secrets::value.eq(new));
            diesel::insert_into(secrets::table).values(row).on_conflict_do_nothing().execute(connection)?;
            secrets::table.find("sessions").select(secrets::value).first(connection)
        })
    }

    /// Writes changes of keys, in one transaction.
    ///
    /// # Errors
    /// If the database fails; then nothing is changed.
    pub fn save_keys(&mut self, KeyChanges { saved, removed }: &KeyChanges) -> Result<(), StoreError> {
        if saved.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let removed: Vec<String> = removed.iter().map(KeyId::to_string).collect();
        self.write(|connection| {
            diesel::delete(keys::table.filter(keys::id.eq_any(removed))).execute(connection)?;
            for key in saved {
                let row = KeyRow::from(key);
                diesel::insert_into(keys::table)
                    .values(&row)
                    .on_conflict(keys::id)
                    .do_update()
                    .set(&row)
                    .execute(connection)?;
            }
            Ok(())
        })
    }
}

impl From<&Key> for KeyRow {
    fn from(key: &Key) -> Self {
        let KeyDefinition { name, scopes, models, expires_at, enabled, limits, trusts_client_header } = &key.definition;
        let number = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let millis = |time: DateTime<Utc>| time.timestamp_millis();
        Self {
            id: key.id.to_string(),
            name: name.clone(),
            prefix: key.prefix.clone(),
            source: key.source.as_str().to_owned(),
            hash: key.hash.to_hex(),
            old_hash: key.old.map(|(hash, _)| hash.to_hex()),
            old_until: key.old.map(|(_, until)| millis(until)),
            scopes: serde_json::to_string(scopes).expect("a list of texts is JSON"),
            models: serde_json::to_string(models).expect("a list of texts is JSON"),
            expires_at: expires_at.map(millis),
            enabled: *enabled,
            requests_per_minute: number(limits.requests_per_minute),
            tokens_per_minute: number(limits.tokens_per_minute),
            tokens_per_day: number(limits.tokens_per_day),
            max_concurrency: number(limits.max_concurrency),
            max_waiting: number(limits.max_waiting),
            trusts_client_header: *trusts_client_header,
            created_at: millis(key.created_at),
            last_used_at: key.last_used_at.map(millis),
        }
    }
}

impl KeyRow {
    fn into_key(self) -> Result<Key, String> {
        let wrong = |column: &str| format!("key `{}` has a wrong `{column}`", self.name);
        let hash = |text: &str| KeyHash::from_hex(text);
        let time = |column, millis: Option<i64>| match millis.map(DateTime::from_timestamp_millis) {
            None => Ok(None),
            Some(Some(time)) => Ok(Some(time)),
            Some(None) => Err(wrong(column)),
        };
        let old_hash = self.old_hash.as_deref().map(|text| hash(text).ok_or_else(|| wrong("old_hash"))).transpose()?;
        let scopes: Vec<Scope> = serde_json::from_str(&self.scopes).map_err(|_| wrong("scopes"))?;
        Ok(Key {
            id: KeyId(Uuid::parse_str(&self.id).map_err(|_| wrong("id"))?),
            source: KeySource::from_name(&self.source).ok_or_else(|| wrong("source"))?,
            hash: hash(&self.hash).ok_or_else(|| wrong("hash"))?,
            old: old_hash.zip(time("old_until", self.old_until)?),
            created_at: time("created_at", Some(self.created_at))?.ok_or_else(|| wrong("created_at"))?,
            last_used_at: time("last_used_at", self.last_used_at)?,
            definition: KeyDefinition {
                scopes: scopes.into_iter().collect(),
                models: serde_json::from_str(&self.models).map_err(|_| wrong("models"))?,
                expires_at: time("expires_at", self.expires_at)?,
                enabled: self.enabled,
                limits: KeyLimits {
                    requests_per_minute: self.requests_per_minute.map(i64::unsigned_abs),
                    tokens_per_minute: self.tokens_per_minute.map(i64::unsigned_abs),
                    tokens_per_day: self.tokens_per_day.map(i64::unsigned_abs),
                    max_concurrency: self.max_concurrency.map(i64::unsigned_abs),
                    max_waiting: self.max_waiting.map(i64::unsigned_abs),
                },
                trusts_client_header: self.trusts_client_header,
                name: self.name,
            },
            prefix: self.prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_sessions_is_made_once() {
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
        assert_eq!(store.session_secret("first"), Ok("first".to_owned()));
        assert_eq!(store.session_secret("second"), Ok("first".to_owned()));
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_removed_is_gone() {
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
        let at = |second: i64| DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time");
        let plain = Key {
            id: KeyId(Uuid::new_v4()),
            prefix: "lw_abcde".to_owned(),
            source: KeySource::Api,
            definition: KeyDefinition::new("plain"),
            created_at: at(0),
            last_used_at: None,
            hash: KeyHash::of(b"plain"),
            old: None,
        };
        let full = Key {
            id: KeyId(Uuid::new_v4()),
            source: KeySource::File,
            definition: KeyDefinition {
                scopes: [Scope::Admin, Scope::Read].into(),
                models: vec!["llama*".to_owned()],
                expires_at: Some(at(100)),
                enabled: false,
                limits: KeyLimits {
                    requests_per_minute: Some(1),
                    tokens_per_minute: Some(2),
                    tokens_per_day: Some(3),
                    max_concurrency: Some(4),
                    max_waiting: Some(0),
                },
                trusts_client_header: true,
                ..KeyDefinition::new("full")
            },
            created_at: at(1),
            last_used_at: Some(at(5)),
            hash: KeyHash::of(b"full"),
            old: Some((KeyHash::of(b"old"), at(9))),
            ..plain.clone()
        };
        let saved = KeyChanges { saved: vec![plain.clone(), full.clone()], removed: Vec::new() };
        store.save_keys(&saved).expect("saved");
        assert_eq!(store.load_keys().expect("loaded"), [plain.clone(), full.clone()]);
        let bare = Key { old: None, last_used_at: None, ..full };
        let changes = KeyChanges { saved: vec![bare.clone()], removed: vec![plain.id] };
        store.save_keys(&changes).expect("saved");
        assert_eq!(store.load_keys().expect("loaded"), [bare]);
    }
}
