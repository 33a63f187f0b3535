//! The inference API: reads a request, leases an endpoint, and relays the endpoint's answer.

use std::rc::Rc;

use actix_web::{HttpRequest, web};

use super::error::ApiError;
use super::serving::Inference;
use super::{HttpReply, Services, auth, body, queue_updates};
use crate::dialect::Dialect;
use crate::domain::request::ApiKind;
use crate::upstream::client::Upstreams;
use crate::upstream::request_body::RequestBody;
use crate::upstream::via;

/// Relays a request for a chat completion.
pub async fn chat_completions(request: HttpRequest, payload: web::Payload) -> HttpReply {
    relay(ApiKind::ChatCompletions, request, payload).await
}

/// Relays a request for a completion.
pub async fn completions(request: HttpRequest, payload: web::Payload) -> HttpReply {
    relay(ApiKind::Completions, request, payload).await
}

/// Relays a request for embeddings.
pub async fn embeddings(request: HttpRequest, payload: web::Payload) -> HttpReply {
    relay(ApiKind::Embeddings, request, payload).await
}

/// Relays a request of the Responses API.
pub async fn responses(request: HttpRequest, payload: web::Payload) -> HttpReply {
    relay(ApiKind::Responses, request, payload).await
}

/// Answers a request, with an error in the form of its API if there is no endpoint's answer.
async fn relay(api_kind: ApiKind, request: HttpRequest, payload: web::Payload) -> HttpReply {
    let answered = serve(api_kind, request, payload).await;
    Ok(answered.unwrap_or_else(|error| error.answer(Dialect::of(api_kind))))
}

/// Leases an endpoint and relays its answer. actix drops this future when the client leaves; that frees everything that the
/// request holds: its place in the queue, its lease, its connection to the endpoint.
async fn serve(api_kind: ApiKind, request: HttpRequest, payload: web::Payload) -> HttpReply {
    let services = request.app_data::<web::Data<Services>>().expect("set for every worker").clone();
    let upstreams = request.app_data::<Rc<Upstreams>>().expect("set for every worker").clone();
    if via::has_passed(request.headers(), &services.instance) {
        return Err(ApiError::Loop);
    }
    let patience = upstreams.config.idle_timeout;
    let bytes = body::read(&request, payload, services.max_body_bytes, patience).await?;
    let body = RequestBody::parse(bytes, api_kind).map_err(ApiError::invalid)?;
    if !auth::may_use(&request, &body.model) {
        return Err(ApiError::UnknownModel(body.model.to_string()));
    }
    let is_stream = body.stream;
    let inference = Inference { services, upstreams, request, api_kind, body };
    if is_stream && queue_updates::are_wanted(&inference.request) {
        queue_updates::answer(inference).await
    } else {
        Ok(inference.serve(None).await?.into_response(is_stream))
    }
}
