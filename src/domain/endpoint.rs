//! An endpoint: its definition, its source, its status, and its form in the API.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use url::{Host, Url};

use super::dispatch::BreakerView;
use super::ids::{EndpointId, ModelId};
use super::target::Target;

/// The inference server behind an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointKind {
    /// Ollama.
    Ollama,
    /// vLLM.
    Vllm,
    /// The server of llama.cpp.
    Llamacpp,
    /// LM Studio.
    LmStudio,
    /// SGLang.
    Sglang,
    /// xLLM.
    Xllm,
    /// Any other server with the OpenAI API.
    OpenaiCompatible,
}

impl EndpointKind {
    /// Every kind.
    pub const ALL: [EndpointKind; 7] = [
        EndpointKind::Ollama,
        EndpointKind::Vllm,
        EndpointKind::Llamacpp,
        EndpointKind::LmStudio,
        EndpointKind::Sglang,
        EndpointKind::Xllm,
        EndpointKind::OpenaiCompatible,
    ];

    /// Returns the name used in the config file, the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointKind::Ollama => "ollama",
            EndpointKind::Vllm => "vllm",
            EndpointKind::Llamacpp => "llamacpp",
            EndpointKind::LmStudio => "lm_studio",
            EndpointKind::Sglang => "sglang",
            EndpointKind::Xllm => "xllm",
            EndpointKind::OpenaiCompatible => "openai_compatible",
        }
    }

    /// Returns the kind with this name; `None` for any other name, also for `auto`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Who registered an endpoint. The same source changes and removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointSource {
    /// The config file. The API cannot change or remove such an endpoint.
    File,
    /// The HTTP API.
    Api,
}

/// The status of an endpoint, which follows from its probes and the operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointStatus {
    /// The endpoint was not probed yet in this process.
    Pending,
    /// The endpoint answers its probes and can be granted.
    Online,
    /// The endpoint answers that it is still loading its model. It gets no lease, and requests wait for it.
    Loading,
    /// The operator wants the endpoint to get no new lease. Its running requests finish.
    Draining,
    /// The endpoint does not answer its probes.
    Offline,
    /// The endpoint answers its probes, but not as an inference server does.
    Error,
}

impl EndpointStatus {
    /// Returns the name used in the API and in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointStatus::Pending => "pending",
            EndpointStatus::Online => "online",
            EndpointStatus::Loading => "loading",
            EndpointStatus::Draining => "draining",
            EndpointStatus::Offline => "offline",
            EndpointStatus::Error => "error",
        }
    }
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an operator says about an endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointDefinition {
    /// Unique, 1 to 100 characters, no control characters.
    pub name: String,
    /// Unique, `http` or `https`, without a trailing slash; a trailing `/v1` is allowed and means the same as none.
    pub base_url: String,
    /// The kind of its server; `None`: probes find it out.
    pub kind: Option<EndpointKind>,
    /// Slots, 1 to 10000; `None`: the number that the engine reports, else 1.
    pub max_concurrency: Option<u32>,
    /// 0 to 10000, more is better; `None`: the score in its load reports, else 0.
    pub capability_score: Option<u32>,
    /// Sent to the endpoint as `Authorization: Bearer`, never shown; `None`: no key is sent.
    pub api_key: Option<String>,
    /// The only models that this endpoint may serve; empty: all models that it has.
    pub allowed_models: Vec<String>,
}

/// How many slots an endpoint may have.
pub const MAX_CONCURRENCY: RangeInclusive<u32> = 1..=10_000;

/// The capability scores that an endpoint may have.
pub const CAPABILITY_SCORE: RangeInclusive<u32> = 0..=10_000;

/// How many models an endpoint may have. A longer list is cut to this length.
pub const MODELS_MAX: usize = 10_000;

/// How long a model's name may be, in bytes. Longer names are removed from a list.
pub const MODEL_NAME_MAX: usize = 512;

/// Returns the address below which the paths of the API lie: `base_url` in its normal form, without a final `/v1`.
pub fn root_url(base_url: &str) -> String {
    let normal = Url::parse(base_url).map_or_else(|_| base_url.to_owned(), String::from);
    let root = normal.trim_end_matches('/');
    root.strip_suffix("/v1").unwrap_or(root).to_owned()
}

/// Tells whether a URL names a link-local address (RFC 3927, RFC 4291 section 2.5.6). At such addresses clouds offer
/// the secrets of a machine. A host name is not looked up.
pub fn is_link_local(base_url: &str) -> bool {
    match Url::parse(base_url).ok().as_ref().and_then(Url::host) {
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => {
            // NAT64 translates an address of this form to one of 169.254.0.0/16 (RFC 6052 section 2.1).
            let is_behind_nat64 = matches!(address.segments(), [0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, _]);
            let is_mapped = address.to_ipv4_mapped().is_some_and(|address| address.is_link_local());
            address.is_unicast_link_local() || is_mapped || is_behind_nat64
        }
        Some(Host::Domain(_)) | None => false,
    }
}

/// Checks an endpoint's name.
///
/// # Errors
/// What is allowed, if the name is not.
pub fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if (1..=100).contains(&length) && name.trim() == name && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err("1 to 100 characters, no control characters, no space at either end".to_owned())
}

/// How long an endpoint's key may be, in bytes.
const API_KEY_MAX: usize = 4096;

/// How long an endpoint's address may be, in bytes.
const BASE_URL_MAX: usize = 2048;

/// Checks an endpoint's list of allowed models.
///
/// # Errors
/// What is allowed, if the list is not.
pub fn check_models(models: &[String]) -> Result<(), String> {
    let is_allowed = |name: &String| (1..=MODEL_NAME_MAX).contains(&name.len());
    if models.len() <= MODELS_MAX && models.iter().all(is_allowed) {
        return Ok(());
    }
    Err(format!("up to {MODELS_MAX} names of 1 to {MODEL_NAME_MAX} bytes"))
}

/// Checks an endpoint's key, which must fit into a header.
///
/// # Errors
/// What is allowed, if the key is not.
pub fn check_api_key(key: &str) -> Result<(), String> {
    if (1..=API_KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("ASCII letters, digits and signs, 1 to {API_KEY_MAX}, no spaces"))
}

/// Checks an endpoint's address and returns it without a trailing slash.
///
/// # Errors
/// What is allowed, if the address is not.
pub fn check_base_url(text: &str) -> Result<String, String> {
    let allowed =
        || format!("an http:// or https:// URL of up to {BASE_URL_MAX} bytes without user name, query or fragment");
    if text.len() > BASE_URL_MAX {
        return Err(allowed());
    }
    let url = Url::parse(text).map_err(|error| format!("{} ({error})", allowed()))?;
    let plain =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        return Err(allowed());
    }
    Ok(text.trim().trim_end_matches('/').to_owned())
}

impl EndpointDefinition {
    /// Returns a definition with the defaults: probes find out kind and slots, and all models are allowed.
    pub fn new(name: impl Into<String>, base_url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            base_url: base_url.into(),
            kind: None,
            max_concurrency: None,
            capability_score: None,
            api_key: None,
            allowed_models: Vec::new(),
        }
    }

    /// Returns the address below which the paths of the API lie. Two endpoints with the same root are the same server.
    pub fn root_url(&self) -> String {
        root_url(&self.base_url)
    }
}

impl fmt::Debug for EndpointDefinition {
    /// Leaves the key out, so that no log line can hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint `{}` at {}", self.name, self.base_url)
    }
}

/// The facts about an endpoint on which the dispatcher's decisions depend.
#[derive(Clone, Debug)]
pub struct EndpointFacts {
    /// Where the endpoint's requests go.
    pub target: Arc<Target>,
    /// The endpoint's slots, 1 to 10000.
    pub max_concurrency: u32,
    /// 0 to 10000, more is better; `None`: the score in its load reports, else 0.
    pub capability_score: Option<u32>,
    /// The models that the endpoint serves, as far as they are known.
    pub models: Arc<BTreeSet<ModelId>>,
    /// A pending or loading endpoint has not listed its models yet, and any model may be among them.
    pub may_serve_any: bool,
    /// Whether the endpoint can be granted.
    pub status: EndpointStatus,
}

impl EndpointFacts {
    /// Returns the endpoint's id.
    pub fn id(&self) -> EndpointId {
        self.target.id
    }
}

/// An endpoint as the API and the events show it, without its key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointView {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The endpoint's name.
    pub name: String,
    /// The address as the operator gave it, without a trailing slash.
    pub base_url: String,
    /// The kind that the operator gave or probes found; `None`, shown as `auto`, while it is not known.
    #[serde(serialize_with = "kind_or_auto")]
    pub kind: Option<EndpointKind>,
    /// The status; `Draining` if the operator wants it so.
    pub status: EndpointStatus,
    /// Who registered the endpoint.
    pub source: EndpointSource,
    /// The endpoint's slots, 1 to 10000.
    pub max_concurrency: u32,
    /// 0 to 10000, more is better; `None` if the operator gave none.
    pub capability_score: Option<u32>,
    /// Slots taken; `None` if only Registry was asked, which does not know the slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Whether failures keep requests away; `None` if only Registry was asked, which does not know the breakers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// The models that the endpoint may serve and has.
    pub models: Vec<ModelId>,
    /// The latency of the last good probe, in milliseconds; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When the endpoint last answered a probe well; `None` for never.
    pub last_seen: Option<DateTime<Utc>>,
    /// Why the last probe or request failed; `None` if nothing is wrong.
    pub last_error: Option<String>,
    /// Ended leases since the registration; abandoned ones count here only.
    pub total_requests: i64,
    /// Leases that ended with success.
    pub successful_requests: i64,
    /// Leases that ended with a failure.
    pub failed_requests: i64,
    /// When the endpoint was registered.
    pub registered_at: DateTime<Utc>,
}

/// Writes a kind that is not known yet as `auto`.
fn kind_or_auto<S: Serializer>(kind: &Option<EndpointKind>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.map_or("auto", EndpointKind::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_told_from_others_however_they_are_written() {
        let check = |url: &str, expected: bool| assert_eq!(is_link_local(url), expected, "{url}");
        check("http://169.254.169.254", true);
        check("http://169.254.0.1:8080/v1", true);
        check("http://2852039166/latest", true);
        check("http://0xa9fea9fe", true);
        check("http://[fe80::1]:8000", true);
        check("http://[febf::1]", true);
        check("http://[::ffff:169.254.169.254]", true);
        check("http://[64:ff9b::a9fe:a9fe]", true);
        check("http://[64:ff9b::a00:1]", false);
        check("http://169.253.0.1", false);
        check("http://127.0.0.1:8080", false);
        check("http://[fec0::1]", false);
        check("http://[::1]", false);
        check("http://gpu-1", false);
    }

    #[test]
    fn a_base_url_is_http_and_nothing_but_an_address() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(check_base_url(text).ok().as_deref(), expected, "{text}");
        check("http://10.0.0.5:8080", Some("http://10.0.0.5:8080"));
        check("https://gpu.example/llm/v1/", Some("https://gpu.example/llm/v1"));
        check("ftp://gpu.example", None);
        check("gpu.example:8080", None);
        check("http://", None);
        check("http://user:secret@gpu.example", None);
        check("http://gpu.example?x=1", None);
        check(&format!("http://gpu.example/{}", "x".repeat(BASE_URL_MAX)), None);
    }

    #[test]
    fn names_and_keys_fit_into_headers() {
        for name in ["", " a", "a\nb", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("日本 é").is_ok());
        for key in ["", "a\nb", "a b", "sk-ü", &"x".repeat(API_KEY_MAX + 1)] {
            assert!(check_api_key(key).is_err(), "{key:?}");
        }
        assert!(check_api_key("sk-12_ab.c=").is_ok());
    }

    #[test]
    fn a_list_of_allowed_models_has_its_bounds() {
        let check = |count: usize, length: usize, expected| {
            assert_eq!(check_models(&vec!["x".repeat(length); count]).is_ok(), expected, "{count} of {length}");
        };
        check(0, 1, true);
        check(MODELS_MAX, 1, true);
        check(MODELS_MAX + 1, 1, false);
        check(1, MODEL_NAME_MAX, true);
        check(1, MODEL_NAME_MAX + 1, false);
        check(1, 0, false);
    }

    #[test]
    fn the_same_server_has_the_same_root() {
        let root = |base_url: &str| EndpointDefinition::new("a", base_url).root_url();
        assert_eq!(root("http://GPU.example:80/v1"), "http://gpu.example");
        assert_eq!(root("http://gpu.example"), "http://gpu.example");
        assert_eq!(root("http://gpu.example/llm/v1"), "http://gpu.example/llm");
    }
}
