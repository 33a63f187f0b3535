//! Looks closer at an endpoint that has answered its probe: its kind, its slots, its load. Nothing waits for what comes of it.

use actix_web::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::engine_load;
use super::page::{Asker, PAGE_MAX};
use crate::domain::endpoint::{EndpointKind, MAX_CONCURRENCY};
use crate::domain::load::LoadReport;

/// What is to be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The kind of the server.
    pub kind: bool,
    /// How many slots the engine itself has.
    pub slots: bool,
    /// Its load.
    pub load: bool,
}

impl Wanted {
    /// Tells whether anything is to be found out about a server of this kind; `None`: not known.
    pub fn is_any(self, kind: Option<EndpointKind>) -> bool {
        let tells_load = kind.is_some_and(|kind| !engine_load::pages(kind).is_empty());
        self.kind || self.slots || (self.load && tells_load)
    }
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The kind; `None` if it was not wanted.
    pub kind: Option<EndpointKind>,
    /// The engine's own number of slots; `None` if it does not tell, or was not asked.
    pub slots: Option<u32>,
    /// The load; `None` if the server does not tell, or was not asked.
    pub load: Option<LoadReport>,
}

/// Asks for what is `wanted`, one page after the other.
pub(super) async fn look(asker: Asker, known: Option<EndpointKind>, wanted: Wanted) -> Findings {
    let kind = if wanted.kind { Some(detect(&asker).await) } else { None };
    let Some(is) = kind.or(known) else { return Findings::default() };
    let slots = if wanted.slots { slots(&asker, is).await } else { None };
    let load = if wanted.load { load(&asker, is).await } else { None };
    Findings { kind, slots, load }
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

/// Finds out the kind from pages that only one kind of server has.
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

/// Asks an engine how many requests it works on at once. Only llama.cpp tells.
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

/// Returns a page that was answered with success.
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
        // Part of what llama-server answered.
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
