//! Settings: built-in defaults, then the user's file, then the environment.
//!
//! Only this module reads the environment. One pass finds every mistake and names it with its place, the given value
//! and what is allowed.

mod document;
mod keys;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::document::{Finished, Settings};
use actix_web::http::header::HeaderName;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::domain::dispatch::QueueRules;
use crate::domain::dispatch::admission::Admission;
use crate::domain::dispatch::choose::{Balancing, Mode};
use crate::domain::endpoint::EndpointDefinition;
use crate::domain::keys::GivenKey;

/// The text of `config/default.toml`, which gives every key its default.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// The settings, one struct for each section. The file `config/keys.rs` holds the range of every value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// The HTTP server and who may call it.
    pub server: ServerConfig,
    /// The certificate of the server; `None`: the server speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Where statistics are stored and for how long.
    pub database: DatabaseConfig,
    /// How an endpoint is chosen.
    pub balancer: BalancerConfig,
    /// How requests wait for a lease.
    pub queue: QueueConfig,
    /// How requests are relayed to endpoints.
    pub upstream: UpstreamConfig,
    /// How endpoints are probed.
    pub health: HealthConfig,
    /// How speed is measured.
    pub tps: TpsConfig,
    /// The blocks `[[endpoints]]`, in the order of the file; their names and addresses are unique.
    #[serde(skip)]
    pub endpoints: Vec<EndpointDefinition>,
    /// The blocks `[[keys]]`, in the order of the file, and then the key of the environment; their names are unique.
    #[serde(skip)]
    pub keys: Vec<GivenKey>,
    /// What is wrong with the address to listen on if there is no key in the database either.
    #[serde(skip)]
    pub open_access: Option<ConfigError>,
}

/// The section `server`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServerConfig {
    /// The address and port to listen on; loopback unless open access is allowed.
    pub bind: SocketAddr,
    /// Threads that serve HTTP, 0 to 256; 0 stands for 1.
    workers: usize,
    /// The longest request body, 1 byte to 1 GiB.
    pub max_body_bytes: usize,
    /// How long running requests may go on after SIGTERM, up to an hour.
    #[serde(rename = "shutdown_grace_secs", deserialize_with = "seconds")]
    pub shutdown_grace: Duration,
    /// Further host names, without port, by which clients may call this server.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may use the inference API.
    pub cors_origins: Vec<String>,
    /// Bytes of request bodies held at one time, bodies of waiting requests included, up to 1 TiB.
    pub max_buffered_bytes: usize,
    /// Endpoints may have link-local addresses, at which clouds offer the secrets of a machine.
    pub allow_link_local_endpoints: bool,
}

/// The section `tls`, which has both keys or none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TlsConfig {
    /// The PEM file with the certificate and those of its issuers.
    pub cert_file: PathBuf,
    /// The PEM file with the private key of the certificate.
    pub key_file: PathBuf,
}

/// The section `database`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DatabaseConfig {
    /// `sqlite://FILE` or `sqlite://:memory:`.
    pub url: String,
    /// How long statistics wait at most before they are written, 10 ms to 1 min.
    #[serde(rename = "flush_interval_ms", deserialize_with = "milliseconds")]
    pub flush_interval: Duration,
    /// How long rows of the history are kept, 1 to 3650 days.
    #[serde(rename = "history_retention_days", deserialize_with = "days")]
    pub history_retention: Duration,
    /// How many rows of the history are kept, 1 to 1,000,000,000.
    pub history_max_rows: u32,
}

/// The section `balancer`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BalancerConfig {
    /// The policy that chooses among endpoints with a free slot.
    pub mode: Mode,
    /// How often the age of load reports is checked, up to 10 s.
    #[serde(rename = "ranking_cache_ms", deserialize_with = "milliseconds")]
    pub ranking_cache: Duration,
    /// The load of the CPU above which an endpoint without a GPU is busy, 0 to 100 %.
    pub cpu_busy_percent: f64,
    /// The load of the GPU above which an endpoint is busy, 0 to 100 %.
    pub gpu_busy_percent: f64,
    /// The use of GPU memory above which an endpoint is busy, 0 to 100 %.
    pub vram_busy_percent: f64,
    /// The number of active requests from which on an endpoint with a GPU is busy, 1 to 100,000.
    pub active_busy: u32,
    /// How long a load report counts after it was received, 1 s to 1 day.
    #[serde(rename = "metrics_fresh_secs", deserialize_with = "seconds")]
    pub metrics_fresh: Duration,
}

/// The section `queue`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct QueueConfig {
    /// How many requests may wait for a lease, 0 to 1,000,000.
    pub max_waiting: usize,
    /// How long a request may wait for a lease, up to a day.
    #[serde(rename = "timeout_secs", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// How long a request may wait while every endpoint with its model is loading the model, up to a day.
    #[serde(rename = "warmup_timeout_secs", deserialize_with = "seconds")]
    pub warm_up: Duration,
    /// The part of `max_waiting`, 0 to 1, from which on new requests are delayed.
    pub delay_threshold: f64,
    /// The part of `max_waiting`, 0 to 1, from which on new requests are refused.
    pub reject_threshold: f64,
    /// The longest delay of a new request, 10 ms to 1 min.
    #[serde(rename = "max_delay_ms", deserialize_with = "milliseconds")]
    pub max_delay: Duration,
    /// The request header that names the client; `None`: the peer's address names the client.
    pub client_header: Option<String>,
}

/// The section `upstream`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UpstreamConfig {
    /// How long connecting to an endpoint may take, 1 s to 1 h.
    #[serde(rename = "connect_timeout_secs", deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// How long the first byte of an answer's body may take, 1 s to 1 day.
    #[serde(rename = "first_byte_timeout_secs", deserialize_with = "seconds")]
    pub first_byte_timeout: Duration,
    /// How long an answer may pause after its first byte, 1 s to 1 day.
    #[serde(rename = "idle_timeout_secs", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// How often one request is sent to endpoints at most, 1 to 100.
    pub max_attempts: usize,
    /// How long an idle connection to an endpoint is kept, up to an hour.
    #[serde(rename = "pool_idle_timeout_secs", deserialize_with = "seconds")]
    pub pool_idle_timeout: Duration,
    /// The interval of TCP keep-alive probes to endpoints and clients, 1 s to 1 h.
    #[serde(rename = "tcp_keepalive_secs", deserialize_with = "seconds")]
    pub tcp_keepalive: Duration,
    /// Further headers of clients that are not sent to endpoints. Keys, cookies and headers of proxies are never sent.
    #[serde(deserialize_with = "header_names")]
    pub drop_headers: Vec<HeaderName>,
}

/// The section `health`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HealthConfig {
    /// How often each endpoint is probed, 1 s to 1 h.
    #[serde(rename = "interval_secs", deserialize_with = "seconds")]
    pub interval: Duration,
    /// How long an endpoint may take to answer a probe, 1 s to 5 min.
    #[serde(rename = "timeout_secs", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Failed probes in a row after which an online or loading endpoint is offline, 1 to 100.
    pub failures_to_offline: u32,
}

/// The section `tps`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TpsConfig {
    /// The weight of the newest value in the running mean of tokens per second, 0.001 to 1.
    pub ema_alpha: f64,
}

impl Config {
    /// Returns the names of the sections that differ from those of `other`. `endpoints` and `keys` are not compared, and of
    /// `tls` only whether there is a certificate.
    pub fn sections_changed(&self, other: &Config) -> Vec<&'static str> {
        let sections = [
            ("server", self.server == other.server),
            ("tls", self.tls.is_some() == other.tls.is_some()),
            ("database", self.database == other.database),
            ("balancer", self.balancer == other.balancer),
            ("queue", self.queue == other.queue),
            ("upstream", self.upstream == other.upstream),
            ("health", self.health == other.health),
            ("tps", self.tps == other.tps),
        ];
        sections.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// File and line, or the name of the environment variable.
    pub place: String,
    /// What is wrong: the key, the given value and what is allowed.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Reads the settings: the defaults, then `file`, then `environment`.
///
/// The second value holds warnings for the log, which is set up only after the settings are known.
///
/// # Errors
/// Every mistake in the file and the environment.
pub fn load(file: Option<&Path>, environment: &[(String, String)]) -> Result<(Config, Vec<String>), Vec<ConfigError>> {
    let mut settings = Settings::default();
    settings.read_text("default.toml", DEFAULTS, environment);
    if let Some(path) = file {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => settings.read_text(&name, &text, environment),
            Err(error) => settings.fail(name, format!("cannot be read: {error}")),
        }
    }
    settings.read_environment(environment);
    settings.read_admin_key(environment);
    settings.refuse_link_local_endpoints();
    settings.refuse_little_room();
    settings.refuse_half_a_pair();
    let Finished { table, endpoints, keys, open_access, warnings } = settings.finish()?;
    let mut config: Config = table.try_into().expect("checked values fit the settings they were checked for");
    (config.endpoints, config.keys, config.open_access) = (endpoints, keys, open_access);
    Ok((config, warnings))
}

/// Returns the environment variables. U+FFFD stands in the place of what is not UTF-8.
pub fn environment() -> Vec<(String, String)> {
    let text = |variable: OsString| variable.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

impl BalancerConfig {
    /// Returns the settings by which the dispatcher chooses an endpoint.
    pub fn balancing(&self) -> Balancing {
        Balancing {
            mode: self.mode,
            ranking_cache: self.ranking_cache,
            cpu_busy: self.cpu_busy_percent,
            gpu_busy: self.gpu_busy_percent,
            vram_busy: self.vram_busy_percent,
            active_busy: self.active_busy,
            fresh_for: self.metrics_fresh,
        }
    }
}

impl QueueConfig {
    /// Returns the rules by which the dispatcher lets requests wait.
    pub fn rules(&self) -> QueueRules {
        let (delay_threshold, reject_threshold) = (self.delay_threshold, self.reject_threshold);
        let admission = Admission { delay_threshold, reject_threshold, max_delay: self.max_delay };
        QueueRules { max_waiting: self.max_waiting, admission, warm_up: self.warm_up }
    }
}

impl ServerConfig {
    /// Returns the number of threads that serve HTTP, 1 to 256.
    pub fn workers(&self) -> usize {
        self.workers.max(1)
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(|days| Duration::from_secs(days * 24 * 3600))
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

fn header_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| HeaderName::try_from(name.as_str()).map_err(D::Error::custom)).collect()
}

#[cfg(test)]
mod tests;
