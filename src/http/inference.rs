//! The inference API: a lease, the endpoint's answer, nothing else.

use std::rc::Rc;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::{Services, body, client};
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
    let bytes = body::read(&request, payload, services.max_body_bytes).await?;
    let body = RequestBody::parse(bytes, api_kind).map_err(ApiError::invalid)?;
    let client = client::identify(&request, services.client_header.as_ref());
    let asked = LeaseRequest { model: body.model.clone(), api_kind, client };
    let lease = services.desk.acquire(asked).await.map_err(|refusal| ApiError::Refused {
        refusal,
        model: body.model.clone(),
        retry_after: services.retry_after,
    })?;
    let endpoint = HeaderValue::from_bytes(lease.target().name.as_bytes());
    let forwarded = Forwarded { api_kind, headers: request.headers(), body: &body };
    let relayed = forward(upstreams, lease, forwarded).await?;
    let mut response = HttpResponse::new(relayed.status);
    *response.headers_mut() = relayed.headers;
    if let Ok(endpoint) = endpoint {
        response.headers_mut().insert(HeaderName::from_static("x-leaseway-endpoint"), endpoint);
    }
    if body.stream {
        let no = HeaderValue::from_static("no");
        response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no);
    }
    Ok(response.set_body(actix_web::body::BoxBody::new(relayed.body)))
}
