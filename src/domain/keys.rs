//! Keys: who may do what, and how much of it.
//!
//! A key is a secret that names a client. Only its SHA-256 is kept. Keys that Leaseway makes have 32 random bytes, so
//! that a fast hash is enough.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::{KeyId, ModelId};

/// What a key begins with that Leaseway has made.
pub const KEY_PREFIX: &str = "lw_";

/// How many characters of a key are shown in lists.
const SHOWN_MAX: usize = 8;

/// The lengths in bytes that a key may have which an operator has made up.
const KEY_LENGTHS: RangeInclusive<usize> = 16..=256;

/// The longest name of a key, in bytes.
const NAME_MAX: usize = 128;

/// The values that a limit may have.
pub const LIMIT: RangeInclusive<u64> = 1..=1_000_000_000_000;

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

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Returns the hash of a key.
    pub fn of(secret: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, secret);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads 64 hexadecimal digits; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
        }
        text.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(Self(bytes))
    }

    /// Returns 64 hexadecimal digits in lower case.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// How much a key may be used; `None`: without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
