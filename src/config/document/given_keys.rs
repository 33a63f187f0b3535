//! Reads the blocks `[[keys]]` and the variable `LEASEWAY_ADMIN_KEY`.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{Settings, Source, find, not_allowed, to_value, unknown_key};
use crate::config::keys::{KEY, time_of};
use crate::domain::keys::{
    GivenKey, KeyDefinition, KeyHash, KeyLimits, KeySource, LIMITS, Scope, check_secret, shown_part,
};

/// The variable with the key of the operator.
pub const ADMIN_KEY: &str = "LEASEWAY_ADMIN_KEY";

impl Settings {
    /// Reads the key of the operator from the environment.
    pub fn read_admin_key(&mut self, environment: &[(String, String)]) {
        let Some((_, secret)) = environment.iter().find(|(name, _)| name == ADMIN_KEY) else { return };
        if let Err(allowed) = check_secret(secret) {
            return self.fail(ADMIN_KEY.to_owned(), format!("the value is not allowed; allowed is {allowed}"));
        }
        if self.keys.iter().any(|key| key.definition.name == ADMIN_KEY) {
            let message = format!("a block [[keys]] has the name {ADMIN_KEY}, which is that of the environment's key");
            return self.fail(ADMIN_KEY.to_owned(), message);
        }
        let definition = KeyDefinition { scopes: [Scope::Admin].into(), ..KeyDefinition::new(ADMIN_KEY) };
        let (hash, prefix) = (KeyHash::of(secret.as_bytes()), shown_part(secret));
        self.keys.push(GivenKey { definition, source: KeySource::Env, hash, prefix });
    }

    pub(super) fn read_keys(&mut self, source: &Source<'_>, blocks: &[Spanned<DeValue<'_>>]) {
        let mut names = HashMap::new();
        let mut hashes = HashMap::new();
        for block in blocks {
            let place = source.place(block.span().start);
            let DeValue::Table(values) = block.get_ref() else {
                self.fail(place, "write [[keys]]".to_owned());
                continue;
            };
            let errors_before = self.errors.len();
            let given = self.read_key(source, &place, values);
            let secret = self.read_secret(source, &place, &given);
            let name = given.get("name").and_then(Value::as_str);
            if let Some(name) = name
                && let Some(first) = names.insert(name.to_owned(), place.clone())
            {
                self.fail(place.clone(), format!("key name \"{name}\" is used at {first} already"));
            }
            if let Some((hash, _)) = secret
                && let Some(first) = hashes.insert(hash, place.clone())
            {
                self.fail(place, format!("the key is that of {first} already"));
            }
            if let Some((hash, prefix)) = secret.filter(|_| self.errors.len() == errors_before) {
                self.keys.push(GivenKey { definition: definition(&given), source: KeySource::File, hash, prefix });
            }
        }
    }

    /// Reads the values of one block, those that are not allowed included, and adds its mistakes.
    fn read_key(&mut self, source: &Source<'_>, block: &str, values: &DeTable<'_>) -> Table {
        let mut given = Table::new();
        for (key_name, value) in values {
            let place = source.place(key_name.span().start);
            let Some(key) = find(KEY, key_name.get_ref()) else {
                self.fail(place, unknown_key("keys", key_name.get_ref(), KEY));
                continue;
            };
            let value = to_value(value.get_ref());
            if !key.rule.allows(&value) {
                self.fail(place, not_allowed(&format!("keys.{}", key.name), &value, key));
            }
            given.insert(key.name.to_owned(), value);
        }
        if !given.contains_key("name") {
            self.fail(block.to_owned(), "keys.name is missing".to_owned());
        }
        given
    }

    /// Returns the hash of a block's key and the part of the key that lists show.
    fn read_secret(&mut self, source: &Source<'_>, block: &str, given: &Table) -> Option<(KeyHash, String)> {
        let text = |key| given.get(key).and_then(Value::as_str);
        let variable = match (text("key_env"), text("key_sha256")) {
            (None, Some(hash)) => return Some((KeyHash::from_hex(hash)?, String::new())),
            (Some(variable), None) => variable,
            (Some(_), Some(_)) | (None, None) => {
                self.fail(block.to_owned(), "give one of keys.key_env and keys.key_sha256".to_owned());
                return None;
            }
        };
        let Some((_, secret)) = source.environment.iter().find(|(name, _)| name == variable) else {
            self.fail(block.to_owned(), format!("keys.key_env names `{variable}`, which is not set"));
            return None;
        };
        if let Err(allowed) = check_secret(secret) {
            let message = format!("keys.key_env names `{variable}`, whose value is not allowed; allowed is {allowed}");
            self.fail(block.to_owned(), message);
        }
        Some((KeyHash::of(secret.as_bytes()), shown_part(secret)))
    }
}

fn definition(given: &Table) -> KeyDefinition {
    let flag = |key, default| given.get(key).and_then(Value::as_bool).unwrap_or(default);
    let texts = |key| Some(given.get(key)?.as_array()?.iter().filter_map(Value::as_str));
    let mut limits = KeyLimits::default();
    for name in LIMITS {
        let limit = given.get(name).and_then(Value::as_integer).and_then(|whole| u64::try_from(whole).ok());
        limits.by_name(name).into_iter().for_each(|place| *place = limit);
    }
    let default = KeyDefinition::new(given.get("name").and_then(Value::as_str).unwrap_or_default());
    KeyDefinition {
        scopes: texts("scopes").map_or(default.scopes, |names| names.filter_map(Scope::from_name).collect()),
        models: texts("models").map_or(default.models, |names| names.map(str::to_owned).collect()),
        expires_at: given.get("expires_at").and_then(|time| match time {
            Value::Datetime(time) => time_of(&time.to_string()),
            other => time_of(other.as_str()?),
        }),
        enabled: flag("enabled", default.enabled),
        limits,
        trusts_client_header: flag("trusts_client_header", default.trusts_client_header),
        name: default.name,
    }
}
