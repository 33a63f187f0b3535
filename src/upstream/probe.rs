//! Asks an endpoint whether it is well and which models it has.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::time::Duration;

use actix_web::http::StatusCode;
use awc::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::client::build_client;
use super::look::{self, Findings, Wanted};
use super::page::{Asker, LIST_MAX, PAGE_MAX, wrong};
use crate::config::UpstreamConfig;
use crate::domain::endpoint::{EndpointKind, MODEL_NAME_MAX, MODELS_MAX};
use crate::domain::health::{ProbeAnswer, ProbeFailure};

/// What a probe needs to know of the server.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The URL to which the path of a page is appended.
    pub root_url: String,
    /// The key sent as `Authorization: Bearer`; `None` if the server needs no key.
    pub api_key: Option<String>,
    /// The kind of the server; `None` while it is not known.
    pub kind: Option<EndpointKind>,
}

/// Sends probes and closer looks.
pub struct Prober {
    config: UpstreamConfig,
    timeout: Duration,
    http: Client,
    /// Created when the first https endpoint is probed.
    https: OnceCell<Client>,
}

impl Prober {
    /// Creates a prober that waits `timeout` for each page.
    pub fn new(config: UpstreamConfig, timeout: Duration) -> Self {
        let http = build_client(&config, false);
        Self { config, timeout, http, https: OnceCell::new() }
    }

    /// Asks an endpoint for its models. llama.cpp is also asked whether it is still loading, since newer versions list their
    /// model before they can serve it.
    ///
    /// The future fails if the endpoint does not answer, or answers as no inference server does.
    pub fn probe(&self, probe: Probe) -> impl Future<Output = Result<ProbeAnswer, ProbeFailure>> + 'static {
        let kind = probe.kind;
        ask(self.asker(probe), kind)
    }

    /// Asks an endpoint for what is `wanted` beside its models.
    pub fn look(&self, probe: Probe, wanted: Wanted) -> impl Future<Output = Findings> + 'static {
        let kind = probe.kind;
        look::look(self.asker(probe), kind, wanted)
    }

    fn asker(&self, probe: Probe) -> Asker {
        let client = if probe.root_url.starts_with("https:") {
            self.https.get_or_init(|| build_client(&self.config, true)).clone()
        } else {
            self.http.clone()
        };
        Asker { client, timeout: self.timeout, root_url: probe.root_url, api_key: probe.api_key }
    }
}

async fn ask(asker: Asker, kind: Option<EndpointKind>) -> Result<ProbeAnswer, ProbeFailure> {
    let started = Instant::now();
    let page = asker.get("/v1/models", LIST_MAX).await?;
    let latency = started.elapsed();
    if page.is_loading() {
        return Ok(ProbeAnswer { latency, models: None, kind: None, is_loading: true });
    }
    let (models, told) = match page.status {
        StatusCode::NOT_FOUND => (ollama_models(&asker).await?, None),
        status if !status.is_success() => {
            return Err(wrong(format!("GET /v1/models answered {}", status.as_u16())));
        }
        _ => {
            let (models, owner) = read_models(&page.body)?;
            (models, kind_by_server(page.server.as_deref()).or(owner))
        }
    };
    let is_loading = match kind.or(told) {
        Some(EndpointKind::Llamacpp) => asker.get("/health", PAGE_MAX).await.is_ok_and(|page| page.is_loading()),
        _ => false,
    };
    Ok(ProbeAnswer { latency, models: Some(models), kind: told, is_loading })
}

#[derive(Deserialize)]
struct ModelList<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    owned_by: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct OllamaList {
    models: Vec<OllamaModel>,
}

#[derive(Deserialize)]
struct OllamaModel {
    name: String,
}

/// Reads a list of models, and the kind of server if the owner of a model tells it. An entry that makes no sense is skipped.
fn read_models(body: &[u8]) -> Result<(Vec<String>, Option<EndpointKind>), ProbeFailure> {
    let list: ModelList<'_> = serde_json::from_slice(body)
        .map_err(|error| wrong(format!("GET /v1/models answered no list of models: {error}")))?;
    let models = || list.data.iter().filter_map(|model| serde_json::from_str::<Model<'_>>(model.get()).ok());
    let kind = models().find_map(|model| kind_by_owner(&model.owned_by?));
    Ok((bounded(models().map(|model| model.id.into_owned())), kind))
}

/// Asks for Ollama's own list of models. The oldest versions of Ollama have no other list.
async fn ollama_models(asker: &Asker) -> Result<Vec<String>, ProbeFailure> {
    let page = asker.get("/api/tags", LIST_MAX).await?;
    let list: Result<OllamaList, _> = serde_json::from_slice(&page.body);
    match list {
        Ok(list) if page.status.is_success() => Ok(bounded(list.models.into_iter().map(|model| model.name))),
        _ => Err(wrong("GET /v1/models answered 404")),
    }
}

/// Bounds a list of models to [`MODELS_MAX`] names of up to [`MODEL_NAME_MAX`] bytes; longer names are skipped.
fn bounded(names: impl Iterator<Item = String>) -> Vec<String> {
    names.filter(|name| name.len() <= MODEL_NAME_MAX).take(MODELS_MAX).collect()
}

fn kind_by_server(server: Option<&str>) -> Option<EndpointKind> {
    match server? {
        "llama.cpp" => Some(EndpointKind::Llamacpp),
        server if server.to_ascii_lowercase().contains("vllm") => Some(EndpointKind::Vllm),
        _ => None,
    }
}

fn kind_by_owner(owner: &str) -> Option<EndpointKind> {
    match owner {
        "llamacpp" => Some(EndpointKind::Llamacpp),
        "vllm" => Some(EndpointKind::Vllm),
        "sglang" => Some(EndpointKind::Sglang),
        "library" => Some(EndpointKind::Ollama),
        "organization_owner" | "organization-owner" => Some(EndpointKind::LmStudio),
        "xllm" => Some(EndpointKind::Xllm),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: impl Iterator<Item = String>) -> Vec<u8> {
        let models: Vec<serde_json::Value> = names.map(|name| serde_json::json!({ "id": name })).collect();
        serde_json::json!({ "data": models }).to_string().into_bytes()
    }

    #[test]
    fn a_list_of_models_has_its_bounds() {
        let long = (0..MODELS_MAX + 5).map(|number| number.to_string());
        let (models, _) = read_models(&list(long)).expect("a list");
        assert_eq!(models.len(), MODELS_MAX);
        let names = [MODEL_NAME_MAX + 1, MODEL_NAME_MAX].map(|length| "x".repeat(length));
        let (models, _) = read_models(&list(names.into_iter())).expect("a list");
        assert_eq!(models, ["x".repeat(MODEL_NAME_MAX)]);
    }

    #[test]
    fn an_entry_that_makes_no_sense_hides_no_other() {
        let body = br#"{"data":[7,{"id":3},{"id":"a\u00e9","owned_by":null},{"id":"b","owned_by":"vllm","x":[{}]}]}"#;
        let (models, kind) = read_models(body).expect("a list");
        assert_eq!((models, kind), (vec!["a\u{e9}".to_owned(), "b".to_owned()], Some(EndpointKind::Vllm)));
        for body in [&b""[..], b"7", b"{}", b"{\"data\":{}}", b"[\"data\"]"] {
            assert!(matches!(read_models(body), Err(ProbeFailure::Wrong(_))), "{body:?}");
        }
    }
}
