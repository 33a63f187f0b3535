//! The keys by the hashes of their secrets: what each request is checked against, without a lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use foldhash::HashMap;

use super::{Key, KeyDefinition, KeyHash, Scope};
use crate::domain::ids::{KeyId, ModelId};

/// The key of a request, as far as handlers need it.
#[derive(Debug)]
pub struct Principal {
    /// Identifies the key.
    pub id: KeyId,
    /// The key's name.
    pub name: Arc<str>,
    scopes: BTreeSet<Scope>,
    models: Vec<String>,
    /// The header `queue.client_header` tells the users of this key apart.
    pub trusts_client_header: bool,
    /// When the key was last used, in milliseconds since 1970; 0 for not since this table was made.
    used: AtomicI64,
}

impl Principal {
    /// Notes that a request with the key came at `wall`.
    pub fn note_use(&self, wall: DateTime<Utc>) {
        self.used.store(wall.timestamp_millis(), Ordering::Relaxed);
    }

    /// Tells whether the key may be used for this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Returns what the key may be used for.
    pub fn scopes(&self) -> &BTreeSet<Scope> {
        &self.scopes
    }

    /// Tells whether the key may use a model.
    pub fn may_use(&self, model: &ModelId) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| matches_pattern(pattern, model.as_str()))
    }
}

/// Tells whether a text is what a pattern says, in which each `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// A key, and until when it is valid; `None` for ever.
type Valid = (Arc<Principal>, Option<DateTime<Utc>>);

/// Every valid secret with its key.
#[derive(Debug, Default)]
pub struct KeyTable {
    secrets: HashMap<KeyHash, Valid>,
    /// The enabled keys, each until it expires.
    by_id: HashMap<KeyId, Valid>,
    is_required: bool,
}

impl KeyTable {
    /// Makes the table of these keys. Disabled keys are left out. Requests need a key if there is one, be it disabled, or
    /// if `is_required`.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a Key>, is_required: bool) -> Self {
        let mut table = Self { is_required, ..Self::default() };
        for key in keys {
            table.is_required = true;
            let KeyDefinition { name, scopes, models, expires_at, enabled, trusts_client_header, .. } = &key.definition;
            if !enabled {
                continue;
            }
            let principal = Arc::new(Principal {
                id: key.id,
                name: name.as_str().into(),
                scopes: scopes.clone(),
                models: models.clone(),
                trusts_client_header: *trusts_client_header,
                used: AtomicI64::new(0),
            });
            if let Some((hash, until)) = key.old {
                let until = expires_at.map_or(until, |end| end.min(until));
                table.secrets.insert(hash, (principal.clone(), Some(until)));
            }
            table.by_id.insert(key.id, (principal.clone(), *expires_at));
            table.secrets.insert(key.hash, (principal, *expires_at));
        }
        table
    }

    /// Tells whether requests need a key.
    pub fn is_required(&self) -> bool {
        self.is_required
    }

    /// Returns the key with this secret; `None` if there is none, or the secret is no longer valid at `wall`.
    pub fn find(&self, secret: &[u8], wall: DateTime<Utc>) -> Option<&Arc<Principal>> {
        valid(self.secrets.get(&KeyHash::of(secret))?, wall)
    }

    /// Returns the key with this id; `None` if there is none, or it is not valid at `wall`.
    pub fn with_id(&self, id: KeyId, wall: DateTime<Utc>) -> Option<&Arc<Principal>> {
        valid(self.by_id.get(&id)?, wall)
    }

    /// Returns when each key that was used since this table was made was used last.
    pub fn uses(&self) -> impl Iterator<Item = (KeyId, DateTime<Utc>)> {
        self.by_id.values().filter_map(|(principal, _)| {
            let used = principal.used.load(Ordering::Relaxed);
            let used = DateTime::from_timestamp_millis(used).filter(|_| used != 0)?;
            Some((principal.id, used))
        })
    }
}

fn valid((principal, until): &Valid, wall: DateTime<Utc>) -> Option<&Arc<Principal>> {
    until.is_none_or(|until| wall < until).then_some(principal)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::keys::KeySource;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time")
    }

    fn key(number: u128, definition: KeyDefinition) -> Key {
        Key {
            id: KeyId(Uuid::from_u128(number)),
            prefix: String::new(),
            source: KeySource::Api,
            definition,
            created_at: at(0),
            last_used_at: None,
            hash: KeyHash::of(number.to_string().as_bytes()),
            old: None,
        }
    }

    #[test]
    fn patterns_name_models() {
        for (pattern, text, expected) in [
            ("llama", "llama", true),
            ("llama", "llama-3", false),
            ("", "llama", false),
            ("*", "", true),
            ("llama*", "llama-3", true),
            ("llama*", "a-llama-3", false),
            ("*-3", "llama-3", true),
            ("*-3", "llama-3b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("*b*", "abc", true),
            ("qwen/*:free", "qwen/q3:free", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_secret_is_valid_while_its_key_is() {
        let ends = KeyDefinition { expires_at: Some(at(10)), ..KeyDefinition::new("ends") };
        let off = KeyDefinition { enabled: false, ..KeyDefinition::new("off") };
        let mut turned = key(4, KeyDefinition::new("turned"));
        turned.old = Some((KeyHash::of(b"old"), at(20)));
        let mut soon = key(5, KeyDefinition { expires_at: Some(at(5)), ..KeyDefinition::new("soon") });
        soon.old = Some((KeyHash::of(b"older"), at(20)));
        let table = KeyTable::new(&[key(1, KeyDefinition::new("a")), key(2, ends), key(3, off), turned, soon], false);
        let name = |secret: &str, second| Some(table.find(secret.as_bytes(), at(second))?.name.to_string());
        let check = |secret, second, expected: Option<&str>| assert_eq!(name(secret, second).as_deref(), expected);
        check("1", 1000, Some("a"));
        check("2", 9, Some("ends"));
        check("2", 10, None);
        check("3", 0, None);
        check("4", 1000, Some("turned"));
        check("old", 19, Some("turned"));
        check("old", 20, None);
        check("older", 4, Some("soon"));
        check("older", 5, None);
        check("", 0, None);
        let with_id = |number, second| table.with_id(KeyId(Uuid::from_u128(number)), at(second)).is_some();
        assert!(with_id(1, 1000) && with_id(2, 9) && !with_id(2, 10) && !with_id(3, 0) && !with_id(9, 0));
    }

    #[test]
    fn keys_are_required_as_soon_as_there_is_one() {
        let off = KeyDefinition { enabled: false, ..KeyDefinition::new("off") };
        assert!(!KeyTable::new(&[], false).is_required());
        assert!(KeyTable::new(&[], true).is_required());
        assert!(KeyTable::new(&[key(1, off)], false).is_required());
    }

    #[test]
    fn a_key_may_do_what_its_scopes_and_models_say() {
        let scopes = |scopes: &[Scope]| scopes.iter().copied().collect();
        let check = |given: &[Scope], wanted: Scope, expected: bool| {
            let definition = KeyDefinition { scopes: scopes(given), ..KeyDefinition::new("k") };
            let table = KeyTable::new(&[key(1, definition)], false);
            assert_eq!(table.find(b"1", at(0)).expect("valid").may(wanted), expected, "{given:?} {wanted:?}");
        };
        for scope in Scope::ALL {
            check(&[Scope::Admin], scope, true);
            check(&[scope], scope, true);
            check(&[], scope, false);
            check(&[Scope::Read, Scope::Report], scope, scope == Scope::Read || scope == Scope::Report);
        }
        let models = KeyDefinition { models: vec!["a*".to_owned(), "b".to_owned()], ..KeyDefinition::new("k") };
        let table = KeyTable::new(&[key(1, models), key(2, KeyDefinition::new("all"))], false);
        for (secret, model, expected) in [("1", "ab", true), ("1", "b", true), ("1", "c", false), ("2", "c", true)] {
            let key = table.find(secret.as_bytes(), at(0)).expect("valid");
            assert_eq!(key.may_use(&ModelId::from(model)), expected, "{secret} {model}");
        }
    }

    #[test]
    fn uses_are_noted() {
        let table = KeyTable::new(&[key(1, KeyDefinition::new("a")), key(2, KeyDefinition::new("b"))], false);
        table.find(b"2", at(7)).expect("valid").note_use(at(7));
        assert_eq!(table.uses().collect::<Vec<_>>(), [(KeyId(Uuid::from_u128(2)), at(7))]);
    }
}
