//! Looks closer at an endpoint that has answered its probe: its kind, its slots, its load. Nothing waits for the findings.

use actix_web::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::engine_load;
use super::page::{Asker, PAGE_MAX};
use crate::domain::endpoint::{EndpointKind, MAX_CONCURRENCY};
use crate::domain::load::LoadReport;

/// What a look must find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The kind of the server.
    pub kind: bool,
    /// The number of slots that the engine itself has.
    pub slots: bool,
    /// The load of the server.
    pub load: bool,
}

impl Wanted {
    /// Tells whether there is anything to find out about a server of this kind; `None` if the kind is not known.
    pub fn is_any(self, kind: Option<EndpointKind>) -> bool {
        let tells_load = kind.is_some_and(|kind| !engine_load::pages(kind).is_empty());
        self.kind || self.slots || (self.load && tells_load)
    }
}

/// What a look has found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The kind of the server; `None` if it was not wanted.
    pub kind: Option<EndpointKind>,
    /// The number of slots of the engine; `None` if the engine does not tell it or was not asked.
    pub slots: Option<u32>,
    /// The load of the server; `None` if the server does not tell it or was not asked.
    pub load: Option<LoadReport>,
}

/// Finds out what is `wanted`, one page after the other.
pub(super) async fn look(asker: Asker, known: Option<EndpointKind>, wanted: Wanted) -> Findings {
    let kind = if wanted.kind { Some(detect(&asker).await) } else { None };
    let Some(is) = kind.or(known) else { return Findings::default() };
    let slots = if wanted.slots { slots(&asker, is).await } else { None };
    let load = if wanted.load { load(&asker, is).await } else { None };
    Findings { kind, slots, load }
}

/// Pages that only one kind of server has: path, kind, and a field of the page's JSON object.
const PAGES: &[(&str, EndpointKind, &str)] = &[
    ("/api/system", EndpointKind::Xllm, "\"xllm_version\""),
    ("/api/tags", EndpointKind::Ollama, "\"models\""),
    ("/props", EndpointKind::Llamacpp, "\"default_generation_settings\""),
    ("/get_model_info", EndpointKind::Sglang, "\"model_path\""),
    ("/api/v0/models", EndpointKind::LmStudio, "\"data\""),
    ("/api/v1/models", EndpointKind::LmStudio, "\"publisher\""),
    ("/version", EndpointKind::Vllm, "\"version\""),
];

/// Detects the kind by the [`PAGES`] that the server has.
async fn detect(asker: &Asker) -> EndpointKind {
    for (path, kind, mark) in PAGES {
        if let Some(body) = page(asker, path).await
            && serde_json::from_slice::<Value>(&body).is_ok_and(|value| value.is_object())
            && memchr::memmem::find(&body, mark.as_bytes()).is_some()
        {
            return *kind;
        }
    }
    EndpointKind::OpenaiCompatible
}

#[derive(Deserialize)]
struct Props {
    total_slots: u32,
}

/// Asks an engine how many requests it works on at one time. Only llama.cpp tells it.
async fn slots(asker: &Asker, kind: EndpointKind) -> Option<u32> {
    match kind {
        EndpointKind::Llamacpp => read_slots(&page(asker, "/props").await?),
        EndpointKind::Ollama
        | EndpointKind::Vllm
        | EndpointKind::LmStudio
        | EndpointKind::Sglang
        | EndpointKind::Xllm
        | EndpointKind::OpenaiCompatible => None,
    }
}

fn read_slots(body: &[u8]) -> Option<u32> {
    let Props { total_slots } = serde_json::from_slice(body).ok()?;
    MAX_CONCURRENCY.contains(&total_slots).then_some(total_slots)
}

async fn load(asker: &Asker, kind: EndpointKind) -> Option<LoadReport> {
    for (path, read) in engine_load::pages(kind) {
        if let Some(report) = page(asker, path).await.and_then(|body| read(&body)) {
            return Some(report);
        }
    }
    None
}

/// Returns the body of a page; `None` unless the server answers with a success.
async fn page(asker: &Asker, path: &str) -> Option<Vec<u8>> {
    let page = asker.get(path, PAGE_MAX).await.ok()?;
    StatusCode::is_success(&page.status).then_some(page.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llamacpp_tells_its_slots() {
        let check = |body: &str, expected| assert_eq!(read_slots(body.as_bytes()), expected, "{body}");
        // A part of an answer of llama-server.
        let props = r#"{"default_generation_settings":{"n_ctx":4096},"total_slots":4,"model_path":"m.gguf"}"#;
        check(props, Some(4));
        check(r#"{"total_slots":0}"#, None);
        check(r#"{"total_slots":10001}"#, None);
        check(r#"{"total_slots":-1}"#, None);
        check("{}", None);
        check("", None);
    }

    #[test]
    fn nothing_is_asked_that_nobody_wants_or_tells() {
        let load = Wanted { load: true, ..Wanted::default() };
        assert!(load.is_any(Some(EndpointKind::Vllm)));
        assert!(!load.is_any(Some(EndpointKind::OpenaiCompatible)) && !load.is_any(None));
        assert!(Wanted { kind: true, ..Wanted::default() }.is_any(None));
        assert!(!Wanted::default().is_any(Some(EndpointKind::Vllm)));
    }
}
