//! Serves one request: attempts, each with its own lease, one after the other, and then the head of the answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::{Services, auth, client, rate_headers};
use crate::actors::load_manager::{Ask, QueueUpdates};
use crate::domain::attempts::{Attempts, Conclusion, FailedAttempt, Next};
use crate::domain::dispatch::{Queued, RateStatus};
use crate::domain::ids::RequestId;
use crate::domain::request::{ApiKind, LeaseRequest};
use crate::domain::target::Target;
use crate::upstream::client::Upstreams;
use crate::upstream::forward::{Forwarded, HeldAnswer, NotRelayed, Relayed, forward};
use crate::upstream::request_body::RequestBody;

/// A request that has been read.
pub struct Inference {
    /// The services that all handlers use.
    pub services: web::Data<Services>,
    /// The worker's connections to endpoints.
    pub upstreams: Rc<Upstreams>,
    /// The head of the request.
    pub request: HttpRequest,
    /// The API that the request uses.
    pub api_kind: ApiKind,
    /// The body of the request.
    pub body: RequestBody,
}

/// An endpoint's answer and how the request came to it.
pub struct Served {
    /// The endpoint's status.
    pub status: StatusCode,
    /// The endpoint's headers, without those that are for Leaseway only.
    pub headers: HeaderMap,
    /// The endpoint's body.
    pub body: BoxBody,
    /// The endpoint that answered.
    pub endpoint: Arc<Target>,
    /// What was expected when the request joined the queue, and how long it waited in all; `None` if it did not wait.
    queued: Option<(Queued, Duration)>,
    /// How much is left of the limits of the client's key; `None` if no limit can be exceeded.
    rate: Option<Box<RateStatus>>,
}

impl Inference {
    /// Waits for a lease, reporting the wait to `updates`, and then for the first byte of the answer. If the endpoint fails
    /// before that byte, [`Attempts`] decides whether another endpoint is tried. One deadline holds for all waits.
    ///
    /// # Errors
    /// If the request gets no lease or no answer.
    pub async fn serve(self, updates: Option<QueueUpdates>) -> Result<Served, ApiError> {
        let Self { services, upstreams, request, api_kind, body } = self;
        let key = auth::principal(&request);
        let client = client::identify(&request, services.client_header.as_ref(), key.as_deref());
        let id = request.extensions().get::<RequestId>().expect("every request is given one").clone();
        let asked = LeaseRequest::new(id, body.model.clone(), api_kind, client);
        let mut ask = Ask::First(Arc::new(match key {
            Some(key) => asked.with_key(key.id, key.name.clone(), body.length()),
            None => asked,
        }));
        let mut attempts = Attempts::new(upstreams.config.max_attempts);
        let deadline = services.desk.deadline();
        let mut rate = None;
        let (queued, conclusion) = loop {
            let mut lease = match services.desk.acquire(ask, deadline, updates.clone()).await {
                Ok(lease) => lease,
                Err(refusal) => break (attempts.queued(), attempts.refuse(refusal)),
            };
            attempts.begin(lease.queued());
            rate = lease.take_rate().or(rate);
            let queued = attempts.queued();
            let endpoint = lease.target().clone();
            let forwarded =
                Forwarded { api_kind, query: request.query_string(), headers: request.headers(), body: &body };
            let NotRelayed { mut lease, failure, answer, executions } =
                match forward(&upstreams, lease, forwarded, attempts.executions_left()).await {
                    Ok(Relayed { status, headers, body }) => {
                        return Ok(Served { status, headers, body: BoxBody::new(body), endpoint, queued, rate });
                    }
                    Err(not_relayed) => not_relayed,
                };
            // If no attempt follows, dropping the lease reports the failure.
            lease.fail(failure.clone());
            let is_busy = answer.as_ref().is_some_and(HeldAnswer::is_busy);
            match attempts.fail(FailedAttempt { endpoint, failure, answer, is_busy, executions }) {
                Next::Retry(next) => (attempts, ask) = (next, Ask::Again(lease)),
                Next::Conclude(conclusion) => break (queued, conclusion),
            }
        };
        let error = match conclusion {
            Conclusion::Relay { endpoint, answer: HeldAnswer { status, headers, body } } => {
                return Ok(Served { status, headers, body: BoxBody::new(body), endpoint, queued, rate });
            }
            Conclusion::Fail { endpoint, failure } => ApiError::AttemptFailed(endpoint.name.clone(), failure),
            Conclusion::AllBusy { estimated_wait } => {
                ApiError::AllBusy { estimated_wait, model: body.model, retry_after: services.retry_after }
            }
            Conclusion::Refuse(refusal) => {
                ApiError::Refused { refusal, model: body.model, retry_after: services.retry_after }
            }
        };
        Err(match rate {
            Some(rate) => ApiError::OfKey { error: Box::new(error), rate },
            None => error,
        })
    }
}

impl Served {
    /// Returns the answer with the headers that Leaseway adds.
    pub fn into_response(self, is_stream: bool) -> HttpResponse {
        let mut response = HttpResponse::new(self.status);
        *response.headers_mut() = self.headers;
        if let Ok(name) = HeaderValue::from_bytes(self.endpoint.name.as_bytes()) {
            response.headers_mut().insert(HeaderName::from_static("x-leaseway-endpoint"), name);
        }
        if let Some((queued, waited)) = self.queued {
            add_queue_headers(response.headers_mut(), queued, waited);
        }
        if let Some(rate) = &self.rate {
            rate_headers::add(response.headers_mut(), rate);
        }
        if is_stream {
            let (name, value) = no_buffering();
            response.headers_mut().insert(name, value);
        }
        response.set_body(self.body)
    }
}

/// Returns the header that makes proxies such as nginx pass a stream on piece by piece.
pub fn no_buffering() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))
}

/// Adds the headers that tell a client how long its request waited, and what was expected when it joined the queue.
fn add_queue_headers(headers: &mut HeaderMap, queued: Queued, waited: Duration) {
    headers.insert(HeaderName::from_static("x-queue-status"), HeaderValue::from_static("queued"));
    let wait_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static("x-queue-wait-ms"), wait_ms.into());
    headers.insert(HeaderName::from_static("x-queue-position"), queued.position.into());
    if let Some(wait) = queued.estimated_wait {
        headers.insert(HeaderName::from_static("x-estimated-wait"), wait.as_secs().into());
    }
}
