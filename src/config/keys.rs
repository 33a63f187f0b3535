//! Every key of the settings with the values that it allows: one row for each key.

use std::fmt;
use std::net::SocketAddr;

use actix_web::http::header::HeaderName;
use chrono::{DateTime, Utc};
use toml::Value;

use crate::domain::endpoint::{
    CAPABILITY_SCORE, EndpointKind, MAX_CONCURRENCY, check_api_key, check_base_url, check_name,
};
use crate::domain::keys::{KeyHash, LIMIT, Scope, check_key_name};

/// The values that a key allows.
#[derive(Clone, Copy)]
pub enum Rule {
    /// `true` or `false`.
    Flag,
    /// A whole number from the first to the second, both included.
    Whole(i64, i64),
    /// A number from the first to the second, both included.
    Number(f64, f64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// An IP address and a port.
    SocketAddress,
    /// `sqlite://` and a file name, or `:memory:`.
    DatabaseUrl,
    /// The name of an HTTP header.
    HeaderName,
    /// A list of names of HTTP headers.
    HeaderNames,
    /// What [`check_name`] allows.
    EndpointName,
    /// What [`check_base_url`] allows.
    BaseUrl,
    /// `auto` or the name of an [`EndpointKind`](crate::domain::endpoint::EndpointKind).
    EndpointKind,
    /// What [`check_api_key`] allows.
    ApiKey,
    /// A text that is not empty.
    Text,
    /// A list of texts, none of them empty.
    Texts,
    /// A list of host names without port.
    HostNames,
    /// A list of origins as browsers write them.
    Origins,
    /// What [`check_key_name`] allows.
    KeyName,
    /// The SHA-256 of a key.
    KeyHash,
    /// A list of names of [`Scope`]s.
    Scopes,
    /// A point in time with its offset from UTC.
    Time,
}

/// One key of a section.
pub struct Key {
    /// The name within its section.
    pub name: &'static str,
    /// The values that the key allows.
    pub rule: Rule,
}

const fn key(name: &'static str, rule: Rule) -> Key {
    Key { name, rule }
}

/// The values of `balancer.mode`.
pub const MODES: &[&str] = &["auto", "round_robin", "metrics"];

/// The sections with their keys; `[[endpoints]]` is not among them.
pub const SECTIONS: &[(&str, &[Key])] = &[
    (
        "server",
        &[
            key("bind", Rule::SocketAddress),
            key("workers", Rule::Whole(0, 256)),
            key("max_body_bytes", Rule::Whole(1, 1 << 30)),
            key("shutdown_grace_secs", Rule::Whole(0, 3600)),
            key("insecure_open_access", Rule::Flag),
            key("allowed_hosts", Rule::HostNames),
            key("cors_origins", Rule::Origins),
            key("max_buffered_bytes", Rule::Whole(1, 1 << 40)),
            key("allow_link_local_endpoints", Rule::Flag),
        ],
    ),
    ("tls", &[key("cert_file", Rule::Text), key("key_file", Rule::Text)]),
    (
        "database",
        &[
            key("url", Rule::DatabaseUrl),
            key("flush_interval_ms", Rule::Whole(10, 60_000)),
            key("history_retention_days", Rule::Whole(1, 3650)),
            key("history_max_rows", Rule::Whole(1, 1_000_000_000)),
        ],
    ),
    (
        "balancer",
        &[
            key("mode", Rule::OneOf(MODES)),
            key("ranking_cache_ms", Rule::Whole(0, 10_000)),
            key("cpu_busy_percent", Rule::Number(0.0, 100.0)),
            key("gpu_busy_percent", Rule::Number(0.0, 100.0)),
            key("vram_busy_percent", Rule::Number(0.0, 100.0)),
            key("active_busy", Rule::Whole(1, 100_000)),
            key("metrics_fresh_secs", Rule::Whole(1, 86_400)),
        ],
    ),
    (
        "queue",
        &[
            key("max_waiting", Rule::Whole(0, 1_000_000)),
            key("timeout_secs", Rule::Whole(0, 86_400)),
            key("warmup_timeout_secs", Rule::Whole(0, 86_400)),
            key("delay_threshold", Rule::Number(0.0, 1.0)),
            key("reject_threshold", Rule::Number(0.0, 1.0)),
            key("max_delay_ms", Rule::Whole(10, 60_000)),
            key("client_header", Rule::HeaderName),
        ],
    ),
    (
        "upstream",
        &[
            key("connect_timeout_secs", Rule::Whole(1, 3600)),
            key("first_byte_timeout_secs", Rule::Whole(1, 86_400)),
            key("idle_timeout_secs", Rule::Whole(1, 86_400)),
            key("max_attempts", Rule::Whole(1, 100)),
            key("pool_idle_timeout_secs", Rule::Whole(0, 3600)),
            key("tcp_keepalive_secs", Rule::Whole(1, 3600)),
            key("drop_headers", Rule::HeaderNames),
        ],
    ),
    (
        "health",
        &[
            key("interval_secs", Rule::Whole(1, 3600)),
            key("timeout_secs", Rule::Whole(1, 300)),
            key("failures_to_offline", Rule::Whole(1, 100)),
        ],
    ),
    ("tps", &[key("ema_alpha", Rule::Number(0.001, 1.0))]),
];

/// The keys of a block `[[endpoints]]`.
pub const ENDPOINT: &[Key] = &[
    key("name", Rule::EndpointName),
    key("base_url", Rule::BaseUrl),
    key("kind", Rule::EndpointKind),
    key("max_concurrency", Rule::Whole(*MAX_CONCURRENCY.start() as i64, *MAX_CONCURRENCY.end() as i64)),
    key("capability_score", Rule::Whole(*CAPABILITY_SCORE.start() as i64, *CAPABILITY_SCORE.end() as i64)),
    key("api_key", Rule::ApiKey),
    key("api_key_env", Rule::Text),
    key("models", Rule::Texts),
];

const LIMIT_RULE: Rule = Rule::Whole(*LIMIT.start() as i64, *LIMIT.end() as i64);

/// The settings of a block `[[keys]]`.
pub const KEY: &[Key] = &[
    key("name", Rule::KeyName),
    key("key_env", Rule::Text),
    key("key_sha256", Rule::KeyHash),
    key("scopes", Rule::Scopes),
    key("models", Rule::Texts),
    key("expires_at", Rule::Time),
    key("enabled", Rule::Flag),
    key("requests_per_minute", LIMIT_RULE),
    key("tokens_per_minute", LIMIT_RULE),
    key("tokens_per_day", LIMIT_RULE),
    key("max_concurrency", LIMIT_RULE),
    key("max_waiting", Rule::Whole(0, *LIMIT.end() as i64)),
    key("trusts_client_header", Rule::Flag),
];

/// Returns the keys of a section; `None` if there is no such section.
pub fn section(name: &str) -> Option<&'static [Key]> {
    SECTIONS.iter().find(|(section, _)| *section == name).map(|(_, keys)| *keys)
}

impl Rule {
    /// Tells whether the rule allows this value.
    pub fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Rule::Flag, Value::Boolean(_)) => true,
            (Rule::Whole(min, max), Value::Integer(whole)) => (min..=max).contains(whole),
            (Rule::Number(min, max), Value::Integer(whole)) => (min..=max).contains(&(*whole as f64)),
            (Rule::Number(min, max), Value::Float(number)) => (min..=max).contains(number),
            (Rule::Texts | Rule::HostNames | Rule::Origins | Rule::HeaderNames | Rule::Scopes, Value::Array(_)) => {
                self.wrong_element(value).is_none()
            }
            (Rule::Time, Value::Datetime(time)) => time_of(&time.to_string()).is_some(),
            (_, Value::String(text)) => self.allows_text(text),
            _ => false,
        }
    }

    /// Returns the first element that a list of this rule must not contain; `None` if there is none, or the rule is not
    /// that of a list.
    pub fn wrong_element(self, value: &Value) -> Option<&Value> {
        let is_allowed: fn(&str) -> bool = match self {
            Rule::Texts => |text| !text.is_empty(),
            Rule::HostNames => is_host_name,
            Rule::Origins => is_origin,
            Rule::HeaderNames => |name| HeaderName::try_from(name).is_ok(),
            Rule::Scopes => |name| Scope::from_name(name).is_some(),
            _ => return None,
        };
        value.as_array()?.iter().find(|element| !element.as_str().is_some_and(is_allowed))
    }

    fn allows_text(self, text: &str) -> bool {
        match self {
            Rule::OneOf(names) => names.contains(&text),
            Rule::SocketAddress => text.parse::<SocketAddr>().is_ok(),
            Rule::DatabaseUrl => text.strip_prefix("sqlite://").is_some_and(|path| !path.is_empty()),
            Rule::HeaderName => HeaderName::try_from(text).is_ok(),
            Rule::EndpointName => check_name(text).is_ok(),
            Rule::BaseUrl => check_base_url(text).is_ok(),
            Rule::EndpointKind => text == "auto" || EndpointKind::from_name(text).is_some(),
            Rule::ApiKey => check_api_key(text).is_ok(),
            Rule::Text => !text.is_empty(),
            Rule::KeyName => check_key_name(text).is_ok(),
            Rule::KeyHash => KeyHash::from_hex(text).is_some(),
            Rule::Time => time_of(text).is_some(),
            Rule::Flag | Rule::Whole(..) | Rule::Number(..) => false,
            Rule::Texts | Rule::HostNames | Rule::Origins | Rule::HeaderNames | Rule::Scopes => false,
        }
    }

    /// Reads the text of an environment variable as a value; lists are separated by commas. A text that cannot be read
    /// stays a text, which the rule then refuses.
    pub fn parse(self, text: &str) -> Value {
        let parsed = match self {
            Rule::Flag => text.parse().ok().map(Value::Boolean),
            Rule::Whole(..) => text.parse().ok().map(Value::Integer),
            Rule::Number(..) => text.parse().ok().map(Value::Float),
            Rule::HostNames | Rule::Origins | Rule::HeaderNames => {
                let values = text.split(',').map(str::trim).filter(|value| !value.is_empty());
                Some(Value::Array(values.map(|value| Value::String(value.to_owned())).collect()))
            }
            _ => None,
        };
        parsed.unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

impl fmt::Display for Rule {
    /// Writes what is allowed, as it stands after "allowed is" in a mistake.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Flag => f.write_str("true or false"),
            Rule::Whole(min, max) => write!(f, "a whole number from {min} to {max}"),
            Rule::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Rule::OneOf(names) => write!(f, "one of \"{}\"", names.join("\", \"")),
            Rule::SocketAddress => f.write_str("an IP address and port, as \"127.0.0.1:8420\""),
            Rule::DatabaseUrl => f.write_str("\"sqlite://FILE\" or \"sqlite://:memory:\""),
            Rule::HeaderName => f.write_str("the name of an HTTP header"),
            Rule::HeaderNames => f.write_str("a list of names of HTTP headers"),
            Rule::EndpointName => f.write_str(&check_name("").err().unwrap_or_default()),
            Rule::BaseUrl => f.write_str("an http:// or https:// URL without user name, query or fragment"),
            Rule::EndpointKind => {
                let names = EndpointKind::ALL.map(EndpointKind::as_str);
                write!(f, "one of \"auto\", \"{}\"", names.join("\", \""))
            }
            Rule::ApiKey => f.write_str(&check_api_key("").err().unwrap_or_default()),
            Rule::Text => f.write_str("a text that is not empty"),
            Rule::Texts => f.write_str("a list of texts, none of them empty"),
            Rule::HostNames => f.write_str("a list of host names without port, as [\"llm.example.com\"]"),
            Rule::Origins => f.write_str("a list of origins, as [\"https://chat.example.com\"]"),
            Rule::KeyName => f.write_str(&check_key_name("").err().unwrap_or_default()),
            Rule::KeyHash => f.write_str("the SHA-256 of a key as 64 hexadecimal digits"),
            Rule::Scopes => {
                write!(f, "a list of scopes, each one of \"{}\"", Scope::ALL.map(Scope::as_str).join("\", \""))
            }
            Rule::Time => f.write_str("a point in time with its offset, as 2027-01-31T12:00:00Z"),
        }
    }
}

/// Reads a point in time as RFC 3339 writes it.
pub fn time_of(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

fn is_host_name(text: &str) -> bool {
    let is_allowed = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// Tells whether a text is an origin as browsers write it: scheme and host, a port that is not the scheme's own,
/// nothing more.
fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization().eq_ignore_ascii_case(text)
    })
}
