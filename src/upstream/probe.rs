//! Asks an endpoint how it is. Only `GET`s that cost no tokens.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::Duration;

use actix_http::error::ParseError;
use actix_web::http::{StatusCode, header};
use awc::error::SendRequestError;
use awc::{Client, ClientResponse};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::answer::is_framed;
use super::client::build_client;
use super::engine_load;
use crate::config::UpstreamConfig;
use crate::domain::endpoint::EndpointKind;
use crate::domain::health::{ProbeAnswer, ProbeFailure};
use crate::domain::load::LoadReport;

/// The longest list of models that is read, in bytes.
const BODY_MAX: usize = 4 * 1024 * 1024;

/// What to ask of whom.
#[derive(Clone, Debug)]
pub struct Probe {
    pub root_url: String,
    pub api_key: Option<String>,
    /// `None`: not known.
    pub kind: Option<EndpointKind>,
    /// Find out the kind too.
    pub detect_kind: bool,
}

/// Sends probes.
pub struct Prober {
    config: UpstreamConfig,
    timeout: Duration,
    http: Client,
    /// Made when the first https endpoint comes.
    https: OnceCell<Client>,
}

impl Prober {
    /// Creates a prober that waits `timeout` for each answer.
    pub fn new(config: UpstreamConfig, timeout: Duration) -> Self {
        let http = build_client(&config, false);
        Self { config, timeout, http, https: OnceCell::new() }
    }

    /// Asks an endpoint for its models and, if wanted, finds out its kind.
    ///
    /// The future fails if the endpoint does not answer, or not as an inference server does.
    pub fn probe(&self, probe: Probe) -> impl Future<Output = Result<ProbeAnswer, ProbeFailure>> + 'static {
        ask(self.asker(probe))
    }

    /// Asks an endpoint for its load; `None` if its kind has no page for that.
    ///
    /// The future gives `None` if there is no sensible answer.
    pub fn load(&self, probe: Probe) -> Option<impl Future<Output = Option<LoadReport>> + 'static> {
        let pages = probe.kind.map(engine_load::pages).filter(|pages| !pages.is_empty())?;
        let asker = self.asker(probe);
        Some(async move {
            for (path, read) in pages {
                let page = asker.get(path).await.ok().filter(|page| page.status.is_success());
                if let Some(report) = page.and_then(|page| read(&page.body)) {
                    return Some(report);
                }
            }
            None
        })
    }

    fn asker(&self, probe: Probe) -> Asker {
        let client = if probe.root_url.starts_with("https:") {
            self.https.get_or_init(|| build_client(&self.config, true)).clone()
        } else {
            self.http.clone()
        };
        Asker { client, timeout: self.timeout, probe }
    }
}

/// One probe on its way.
struct Asker {
    client: Client,
    timeout: Duration,
    probe: Probe,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Value>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    owned_by: Option<String>,
}

#[derive(Deserialize)]
struct OllamaList {
    models: Vec<OllamaModel>,
}

#[derive(Deserialize)]
struct OllamaModel {
    name: String,
}

struct Page {
    status: StatusCode,
    server: Option<String>,
    body: Vec<u8>,
}

async fn ask(asker: Asker) -> Result<ProbeAnswer, ProbeFailure> {
    let started = Instant::now();
    let page = asker.get("/v1/models").await?;
    let latency = started.elapsed();
    if page.is_loading() {
        return Ok(ProbeAnswer { latency, models: None, kind: None, is_loading: true });
    }
    let (models, owners) = match page.status {
        StatusCode::NOT_FOUND => (asker.ollama_models().await?, BTreeSet::new()),
        status if !status.is_success() => {
            return Err(ProbeFailure::Wrong(format!("GET /v1/models answered {}", status.as_u16())));
        }
        _ => read_models(&page.body)?,
    };
    let kind = match asker.probe.detect_kind {
        true => Some(asker.detect(page.server.as_deref(), &owners).await),
        false => None,
    };
    let is_loading = match kind.or(asker.probe.kind) {
        // It lists its model before it can serve it.
        Some(EndpointKind::Llamacpp) => asker.get("/health").await.is_ok_and(|page| page.is_loading()),
        _ => false,
    };
    Ok(ProbeAnswer { latency, models: Some(models), kind, is_loading })
}

impl Page {
    /// Tells whether this is how llama.cpp answers while it loads its model.
    fn is_loading(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && memchr::memmem::find(&self.body.to_ascii_lowercase(), b"loading").is_some()
    }
}

fn read_models(body: &[u8]) -> Result<(Vec<String>, BTreeSet<String>), ProbeFailure> {
    let list: ModelList = serde_json::from_slice(body)
        .map_err(|error| ProbeFailure::Wrong(format!("GET /v1/models answered no list of models: {error}")))?;
    // An entry that makes no sense hides no other.
    let models: Vec<Model> = list.data.into_iter().filter_map(|model| serde_json::from_value(model).ok()).collect();
    let owners = models.iter().filter_map(|model| model.owned_by.clone()).collect();
    Ok((models.into_iter().map(|model| model.id).collect(), owners))
}

impl Asker {
    /// Asks for Ollama's own list, which its oldest versions have alone.
    async fn ollama_models(&self) -> Result<Vec<String>, ProbeFailure> {
        let page = self.get("/api/tags").await?;
        let list: Result<OllamaList, _> = serde_json::from_slice(&page.body);
        match list {
            Ok(list) if page.status.is_success() => Ok(list.models.into_iter().map(|model| model.name).collect()),
            _ => Err(ProbeFailure::Wrong("GET /v1/models answered 404".to_owned())),
        }
    }

    /// Finds out the kind: from what the list of models says, else from pages that only one kind of server has.
    async fn detect(&self, server: Option<&str>, owners: &BTreeSet<String>) -> EndpointKind {
        if let Some(kind) = kind_by_list(server, owners) {
            return kind;
        }
        for (path, kind, mark) in PAGES {
            if let Ok(page) = self.get(path).await
                && page.status.is_success()
                && serde_json::from_slice::<Value>(&page.body).is_ok_and(|value| value.is_object())
                && memchr::memmem::find(&page.body, mark.as_bytes()).is_some()
            {
                return *kind;
            }
        }
        EndpointKind::OpenaiCompatible
    }

    async fn get(&self, path: &str) -> Result<Page, ProbeFailure> {
        // On a connection of its own: one that was kept could be stale, which says nothing about the endpoint.
        let mut request = self.client.get(format!("{}{path}", self.probe.root_url)).force_close();
        request.headers_mut().insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
        if let Some(key) = &self.probe.api_key {
            request = request.bearer_auth(key);
        }
        let fetch = async {
            let mut response = request.send().await.map_err(no_page)?;
            let body = read(&mut response).await?;
            let server = response.headers().get(header::SERVER).and_then(|value| value.to_str().ok());
            Ok(Page { status: response.status(), server: server.map(str::to_owned), body })
        };
        match timeout(self.timeout, fetch).await {
            Ok(page) => page,
            Err(_) => Err(ProbeFailure::Unreachable(format!("no answer within {} s", self.timeout.as_secs()))),
        }
    }
}

/// Reads a body, which ends with its connection if the head does not say where.
async fn read(response: &mut ClientResponse) -> Result<Vec<u8>, ProbeFailure> {
    let is_framed = is_framed(response.headers());
    let mut body = Vec::new();
    while let Some(read) = response.next().await {
        match read {
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(_) if !is_framed => break,
            Err(error) => return Err(ProbeFailure::Unreachable(error.to_string())),
        }
        if body.len() > BODY_MAX {
            return Err(ProbeFailure::Wrong(format!("a page has more than {BODY_MAX} bytes")));
        }
    }
    Ok(body)
}

/// Tells an answer that is not HTTP from none.
fn no_page(error: SendRequestError) -> ProbeFailure {
    match error {
        SendRequestError::Response(ParseError::Io(error)) => ProbeFailure::Unreachable(error.to_string()),
        SendRequestError::Response(error) => ProbeFailure::Wrong(format!("what came was not HTTP: {error}")),
        error => ProbeFailure::Unreachable(error.to_string()),
    }
}

/// Pages by which a server gives itself away: path, kind, and a field that its JSON object has.
const PAGES: &[(&str, EndpointKind, &str)] = &[
    ("/api/system", EndpointKind::Xllm, "\"xllm_version\""),
    ("/api/tags", EndpointKind::Ollama, "\"models\""),
    ("/props", EndpointKind::Llamacpp, "\"default_generation_settings\""),
    ("/get_model_info", EndpointKind::Sglang, "\"model_path\""),
    ("/api/v0/models", EndpointKind::LmStudio, "\"data\""),
    ("/api/v1/models", EndpointKind::LmStudio, "\"publisher\""),
    ("/version", EndpointKind::Vllm, "\"version\""),
];

fn kind_by_list(server: Option<&str>, owners: &BTreeSet<String>) -> Option<EndpointKind> {
    let by_owner = |owner: &String| match owner.as_str() {
        "llamacpp" => Some(EndpointKind::Llamacpp),
        "vllm" => Some(EndpointKind::Vllm),
        "sglang" => Some(EndpointKind::Sglang),
        "library" => Some(EndpointKind::Ollama),
        "organization_owner" | "organization-owner" => Some(EndpointKind::LmStudio),
        "xllm" => Some(EndpointKind::Xllm),
        _ => None,
    };
    match server {
        Some("llama.cpp") => Some(EndpointKind::Llamacpp),
        Some(server) if server.to_ascii_lowercase().contains("vllm") => Some(EndpointKind::Vllm),
        _ => owners.iter().find_map(by_owner),
    }
}
