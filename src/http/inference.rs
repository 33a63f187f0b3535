//! The inference API: a lease, the endpoint's answer, nothing else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::{Services, body, client, queue_updates};
use crate::actors::load_manager::QueueUpdates;
use crate::domain::dispatch::Queued;
use crate::domain::endpoint::Target;
use crate::domain::request::{ApiKind, LeaseRequest};
use crate::upstream::client::Upstreams;
use crate::upstream::forward::{Forwarded, Relayed, forward};
use crate::upstream::request_body::RequestBody;

type Answer = Result<HttpResponse, ApiError>;

pub async fn chat_completions(request: HttpRequest, payload: web::Payload) -> Answer {
    relay(ApiKind::ChatCompletions, request, payload).await
}

pub async fn completions(request: HttpRequest, payload: web::Payload) -> Answer {
    relay(ApiKind::Completions, request, payload).await
}

pub async fn embeddings(request: HttpRequest, payload: web::Payload) -> Answer {
    relay(ApiKind::Embeddings, request, payload).await
}

pub async fn responses(request: HttpRequest, payload: web::Payload) -> Answer {
    relay(ApiKind::Responses, request, payload).await
}

/// Leases an endpoint and relays its answer. Dropping the future, as actix does when the client leaves, gives back
/// whatever the request holds: its place in the line, its lease, its connection to the endpoint.
async fn relay(api_kind: ApiKind, request: HttpRequest, payload: web::Payload) -> Answer {
    let services = request.app_data::<web::Data<Services>>().expect("set for every worker").clone();
    let upstreams = request.app_data::<Rc<Upstreams>>().expect("set for every worker").clone();
    let patience = upstreams.config.idle_timeout;
    let bytes = body::read(&request, payload, services.max_body_bytes, patience).await?;
    let body = RequestBody::parse(bytes, api_kind).map_err(ApiError::invalid)?;
    let inference = Inference { services, upstreams, request, api_kind, body };
    if inference.body.stream && queue_updates::are_wanted(&inference.request) {
        queue_updates::answer(inference).await
    } else {
        Ok(inference.serve(None).await?.into_response())
    }
}

/// A request that has been read.
pub struct Inference {
    services: web::Data<Services>,
    upstreams: Rc<Upstreams>,
    request: HttpRequest,
    api_kind: ApiKind,
    body: RequestBody,
}

/// An endpoint's answer and how the request came to it.
pub struct Served {
    pub relayed: Relayed,
    pub endpoint: Arc<Target>,
    queued: Option<(Queued, Duration)>,
    is_stream: bool,
}

impl Inference {
    /// Waits for a lease, telling `updates` of the wait, and then for the first byte of the answer.
    ///
    /// # Errors
    /// If there is no lease or no answer.
    pub async fn serve(self, updates: Option<QueueUpdates>) -> Result<Served, ApiError> {
        let Self { services, upstreams, request, api_kind, body } = self;
        let client = client::identify(&request, services.client_header.as_ref());
        let asked = LeaseRequest { model: body.model.clone(), api_kind, client, tried: Vec::new() };
        let lease = services.desk.acquire(asked, updates).await.map_err(|refusal| ApiError::Refused {
            refusal,
            model: body.model.clone(),
            retry_after: services.retry_after,
        })?;
        let (endpoint, queued, is_stream) = (lease.target().clone(), lease.queued(), body.stream);
        let forwarded = Forwarded { api_kind, query: request.query_string(), headers: request.headers(), body: &body };
        let relayed = forward(&upstreams, lease, forwarded).await?;
        Ok(Served { relayed, endpoint, queued, is_stream })
    }
}

impl Served {
    /// Returns the endpoint's answer with what Leaseway adds to its head.
    pub fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::new(self.relayed.status);
        *response.headers_mut() = self.relayed.headers;
        if let Ok(name) = HeaderValue::from_bytes(self.endpoint.name.as_bytes()) {
            response.headers_mut().insert(HeaderName::from_static("x-leaseway-endpoint"), name);
        }
        if let Some((queued, waited)) = self.queued {
            add_queue_headers(response.headers_mut(), queued, waited);
        }
        if self.is_stream {
            let (name, value) = no_buffering();
            response.headers_mut().insert(name, value);
        }
        response.set_body(BoxBody::new(self.relayed.body))
    }
}

/// Returns the header that has proxies such as nginx pass a stream on piece by piece.
pub fn no_buffering() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))
}

/// Tells a client that its request waited: for how long, and what was to be expected when it joined the line.
fn add_queue_headers(headers: &mut HeaderMap, queued: Queued, waited: Duration) {
    headers.insert(HeaderName::from_static("x-queue-status"), HeaderValue::from_static("queued"));
    let wait_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static("x-queue-wait-ms"), wait_ms.into());
    headers.insert(HeaderName::from_static("x-queue-position"), queued.position.into());
    if let Some(wait) = queued.estimated_wait {
        headers.insert(HeaderName::from_static("x-estimated-wait"), wait.as_secs().into());
    }
}
