//! The inference API: a lease, the endpoint's answer, nothing else.

use std::rc::Rc;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::{Services, body, client};
use crate::domain::dispatch::Queued;
use crate::domain::request::{ApiKind, LeaseRequest};
use crate::upstream::client::Upstreams;
use crate::upstream::forward::{Forwarded, forward};
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
    let services = request.app_data::<web::Data<Services>>().expect("set for every worker");
    let upstreams = request.app_data::<Rc<Upstreams>>().expect("set for every worker");
    let patience = upstreams.config.idle_timeout;
    let bytes = body::read(&request, payload, services.max_body_bytes, patience).await?;
    let body = RequestBody::parse(bytes, api_kind).map_err(ApiError::invalid)?;
    let client = client::identify(&request, services.client_header.as_ref());
    let asked = LeaseRequest { model: body.model.clone(), api_kind, client };
    let lease = services.desk.acquire(asked).await.map_err(|refusal| ApiError::Refused {
        refusal,
        model: body.model.clone(),
        retry_after: services.retry_after,
    })?;
    let endpoint = HeaderValue::from_bytes(lease.target().name.as_bytes());
    let queued = lease.queued();
    let forwarded = Forwarded { api_kind, query: request.query_string(), headers: request.headers(), body: &body };
    let relayed = forward(upstreams, lease, forwarded).await?;
    let mut response = HttpResponse::new(relayed.status);
    *response.headers_mut() = relayed.headers;
    if let Ok(endpoint) = endpoint {
        response.headers_mut().insert(HeaderName::from_static("x-leaseway-endpoint"), endpoint);
    }
    if let Some((queued, waited)) = queued {
        add_queue_headers(response.headers_mut(), queued, waited);
    }
    if body.stream {
        let no = HeaderValue::from_static("no");
        response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no);
    }
    Ok(response.set_body(actix_web::body::BoxBody::new(relayed.body)))
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
