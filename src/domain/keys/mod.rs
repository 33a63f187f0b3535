//! Keys: who may do what, and how much of it.

mod keyring;
mod secret;
mod table;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::keyring::{KeyChanges, Keyring, KeyringError};
pub use self::secret::{KeyHash, check_secret, make_secret, shown_part};
pub use self::table::{KeyTable, Principal};
use super::ids::KeyId;

/// The longest name of a key, in bytes.
const NAME_MAX: usize = 128;

/// The values that a limit of a key may have.
pub const LIMIT: RangeInclusive<u64> = 1..=1_000_000_000_000;

/// The longest time for which a secret stays valid after it was exchanged, in seconds: 30 days.
pub const GRACE_MAX_SECS: u64 = 30 * 24 * 3600;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Inference and the lists of models.
    Inference,
    /// Reading the API below `/api`, and the dashboard.
    Read,
    /// Sending load reports of endpoints.
    Report,
    /// Reading the metrics.
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 5] = [Scope::Inference, Scope::Read, Scope::Report, Scope::Metrics, Scope::Admin];

    /// Returns the name used in the config file, the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Inference => "inference",
            Scope::Read => "read",
            Scope::Report => "report",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }

    /// Returns the scope with this name; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// Who defined a key. The same source changes and removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// The config file.
    File,
    /// The environment variable `LEASEWAY_ADMIN_KEY`.
    Env,
    /// The HTTP API or the command line.
    Api,
}

impl KeySource {
    /// Returns the name used in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            KeySource::File => "file",
            KeySource::Env => "env",
            KeySource::Api => "api",
        }
    }

    /// Returns the source with this name; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::File, Self::Env, Self::Api].into_iter().find(|source| source.as_str() == name)
    }
}

/// A key that the config file or the environment defines.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenKey {
    /// What the operator says about the key.
    pub definition: KeyDefinition,
    /// Where the key is defined.
    pub source: KeySource,
    /// The hash of the secret.
    pub hash: KeyHash,
    /// The part of the secret that lists show; empty if only the hash is given.
    pub prefix: String,
}

/// How much a key may be used; `None`: without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyLimits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Tokens of prompts and answers in a local day of the server.
    pub tokens_per_day: Option<u64>,
    /// Leases held at the same time. Further requests wait.
    pub max_concurrency: Option<u64>,
    /// Requests that wait at the same time. Further ones are refused.
    pub max_waiting: Option<u64>,
}

/// The names of the limits, in the config file and the API.
pub const LIMITS: [&str; 5] =
    ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "max_concurrency", "max_waiting"];

impl KeyLimits {
    /// Returns the limit with this name of [`LIMITS`]; `None` for any other name.
    pub fn by_name(&mut self, name: &str) -> Option<&mut Option<u64>> {
        match name {
            "requests_per_minute" => Some(&mut self.requests_per_minute),
            "tokens_per_minute" => Some(&mut self.tokens_per_minute),
            "tokens_per_day" => Some(&mut self.tokens_per_day),
            "max_concurrency" => Some(&mut self.max_concurrency),
            "max_waiting" => Some(&mut self.max_waiting),
            _ => None,
        }
    }
}

/// Returns the values that the limit with this name may have. A key may be kept from waiting at all.
pub fn allowed_limit(name: &str) -> RangeInclusive<u64> {
    if name == "max_waiting" { 0..=*LIMIT.end() } else { LIMIT }
}

/// What an operator says about a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyDefinition {
    /// The name, unique among keys.
    pub name: String,
    /// What the key may be used for.
    pub scopes: BTreeSet<Scope>,
    /// The models that the key may use; `*` stands for any text. Empty: all models.
    pub models: Vec<String>,
    /// When the key ends to be valid; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// False: the key is kept, but refused.
    pub enabled: bool,
    /// How much the key may be used.
    #[serde(flatten)]
    pub limits: KeyLimits,
    /// The header `queue.client_header` tells the users of this key apart.
    pub trusts_client_header: bool,
}

impl KeyDefinition {
    /// Returns a key for inference without limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            scopes: BTreeSet::from([Scope::Inference]),
            models: Vec::new(),
            expires_at: None,
            enabled: true,
            limits: KeyLimits::default(),
            trusts_client_header: false,
        }
    }

    /// Tells whether the key could be used for everything at `wall`.
    pub fn is_admin(&self, wall: DateTime<Utc>) -> bool {
        self.scopes.contains(&Scope::Admin) && self.enabled && self.expires_at.is_none_or(|end| wall < end)
    }
}

/// A key that is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// Identifies the key.
    pub id: KeyId,
    /// The first characters of the secret.
    pub prefix: String,
    /// Who defined the key.
    pub source: KeySource,
    /// What the operator says about the key.
    #[serde(flatten)]
    pub definition: KeyDefinition,
    /// When the key was made.
    pub created_at: DateTime<Utc>,
    /// When a request with the key last came; `None` for never.
    pub last_used_at: Option<DateTime<Utc>>,
    /// The hash of the secret.
    #[serde(skip)]
    pub hash: KeyHash,
    /// The hash of the secret before the last rotation, and until when it is valid.
    #[serde(skip)]
    pub old: Option<(KeyHash, DateTime<Utc>)>,
}

/// Checks the name of a key.
///
/// # Errors
/// What is allowed.
pub fn check_key_name(name: &str) -> Result<(), String> {
    let is_allowed = (1..=NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control) && name.trim() == name;
    let allowed = format!("1 to {NAME_MAX} bytes without control characters and without spaces at the ends");
    if is_allowed { Ok(()) } else { Err(allowed) }
}
