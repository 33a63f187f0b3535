//! What a client is told of the limits of its key.

use std::time::Duration;

/// A limit of a key that a request can exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// `requests_per_minute`.
    RequestsPerMinute,
    /// `tokens_per_minute`.
    TokensPerMinute,
    /// `tokens_per_day`.
    TokensPerDay,
}

impl RateLimit {
    /// Returns the name of the limit in a key's fields.
    pub fn as_str(self) -> &'static str {
        match self {
            RateLimit::RequestsPerMinute => "requests_per_minute",
            RateLimit::TokensPerMinute => "tokens_per_minute",
            RateLimit::TokensPerDay => "tokens_per_day",
        }
    }
}

/// How much of one limit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The limit.
    pub limit: u64,
    /// What is left of the limit.
    pub remaining: u64,
    /// The time until all of the limit is left again, if nothing more is used.
    pub reset: Duration,
}

/// How much is left of the limits of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateStatus {
    /// The requests per minute; `None` without such a limit.
    pub requests: Option<Rate>,
    /// The tokens per minute, without such a limit the tokens of the day; `None` without either.
    pub tokens: Option<Rate>,
}
