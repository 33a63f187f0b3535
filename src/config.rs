//! Settings: built-in defaults, then the user's file, then the environment.
//!
//! The only reader of the environment. Every mistake is found in one pass and named with its place, the value given and
//! what is allowed.

mod document;
mod keys;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::domain::dispatch::QueueRules;
use crate::domain::dispatch::admission::Admission;
use crate::domain::dispatch::choose::{Balancing, Mode};
use crate::domain::endpoint::EndpointDefinition;

pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// The settings, one struct per component.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub server: ServerConfig,
    pub database: DatabaseConfig,
    pub balancer: BalancerConfig,
    pub queue: QueueConfig,
    pub upstream: UpstreamConfig,
    pub health: HealthConfig,
    pub tps: TpsConfig,
    #[serde(skip)]
    pub endpoints: Vec<EndpointDefinition>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServerConfig {
    pub bind: SocketAddr,
    workers: usize,
    pub max_body_bytes: usize,
    #[serde(rename = "shutdown_grace_secs", deserialize_with = "seconds")]
    pub shutdown_grace: Duration,
    /// More host names by which this server may be called, without port.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may use the inference API.
    pub cors_origins: Vec<String>,
    /// Bytes of request bodies that are held at one time, those of waiting requests included.
    pub max_buffered_bytes: usize,
    /// Endpoints may have link-local addresses, where clouds keep secrets.
    pub allow_link_local_endpoints: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DatabaseConfig {
    pub url: String,
    #[serde(rename = "flush_interval_ms", deserialize_with = "milliseconds")]
    pub flush_interval: Duration,
    #[serde(rename = "history_retention_days", deserialize_with = "days")]
    pub history_retention: Duration,
    pub history_max_rows: u32,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BalancerConfig {
    pub mode: Mode,
    #[serde(rename = "ranking_cache_ms", deserialize_with = "milliseconds")]
    pub ranking_cache: Duration,
    pub cpu_busy_percent: f64,
    pub gpu_busy_percent: f64,
    pub vram_busy_percent: f64,
    pub active_busy: u32,
    #[serde(rename = "metrics_fresh_secs", deserialize_with = "seconds")]
    pub metrics_fresh: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct QueueConfig {
    pub max_waiting: usize,
    #[serde(rename = "timeout_secs", deserialize_with = "seconds")]
    pub timeout: Duration,
    #[serde(rename = "warmup_timeout_secs", deserialize_with = "seconds")]
    pub warm_up: Duration,
    pub delay_threshold: f64,
    pub reject_threshold: f64,
    #[serde(rename = "max_delay_ms", deserialize_with = "milliseconds")]
    pub max_delay: Duration,
    /// The name of the header that names the client.
    pub client_header: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UpstreamConfig {
    #[serde(rename = "connect_timeout_secs", deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    #[serde(rename = "first_byte_timeout_secs", deserialize_with = "seconds")]
    pub first_byte_timeout: Duration,
    #[serde(rename = "idle_timeout_secs", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    pub max_attempts: usize,
    #[serde(rename = "pool_idle_timeout_secs", deserialize_with = "seconds")]
    pub pool_idle_timeout: Duration,
    #[serde(rename = "tcp_keepalive_secs", deserialize_with = "seconds")]
    pub tcp_keepalive: Duration,
    /// Headers of clients that do not go to endpoints, beside those that never do.
    #[serde(deserialize_with = "header_names")]
    pub drop_headers: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HealthConfig {
    #[serde(rename = "interval_secs", deserialize_with = "seconds")]
    pub interval: Duration,
    #[serde(rename = "timeout_secs", deserialize_with = "seconds")]
    pub timeout: Duration,
    pub failures_to_offline: u32,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TpsConfig {
    pub ema_alpha: f64,
}

impl Config {
    /// Returns the names of the sections, endpoints aside, that differ in another's settings.
    pub fn sections_changed(&self, other: &Config) -> Vec<&'static str> {
        let sections = [
            ("server", self.server == other.server),
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
    /// File and line, or the environment variable.
    pub place: String,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Reads the settings and what is to be said about them.
///
/// The second value holds warnings, to be logged once logging is set up.
///
/// # Errors
/// Every mistake in the file and the environment.
pub fn load(file: Option<&Path>, environment: &[(String, String)]) -> Result<(Config, Vec<String>), Vec<ConfigError>> {
    let mut settings = document::Settings::default();
    settings.read_text("default.toml", DEFAULTS, environment);
    if let Some(path) = file {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => settings.read_text(&name, &text, environment),
            Err(error) => settings.fail(name, format!("cannot be read: {error}")),
        }
    }
    settings.read_environment(environment);
    settings.refuse_open_access();
    settings.refuse_link_local_endpoints();
    let (table, endpoints, warnings) = settings.finish()?;
    let mut config: Config = table.try_into().expect("checked values fit the settings they were checked for");
    config.endpoints = endpoints;
    Ok((config, warnings))
}

/// Returns the environment variables that are readable as text.
pub fn environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

impl BalancerConfig {
    /// Returns what the dispatcher must know.
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
    /// Returns what the dispatcher must know.
    pub fn rules(&self) -> QueueRules {
        let (delay_threshold, reject_threshold) = (self.delay_threshold, self.reject_threshold);
        let admission = Admission { delay_threshold, reject_threshold, max_delay: self.max_delay };
        QueueRules { max_waiting: self.max_waiting, admission, warm_up: self.warm_up }
    }
}

impl ServerConfig {
    /// Threads that serve HTTP, at least 1.
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
