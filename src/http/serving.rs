//! Serves one request: a lease, an attempt, and where an endpoint fails it, another endpoint; then the answer's head.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};

use super::error::ApiError;
use super::{Services, client};
use crate::actors::load_manager::QueueUpdates;
use crate::domain::dispatch::Queued;
use crate::domain::endpoint::Target;
use crate::domain::ids::RequestId;
use crate::domain::request::{ApiKind, Failure, LeaseRequest, Outcome, Refusal};
use crate::lease::Lease;
use crate::upstream::client::Upstreams;
use crate::upstream::forward::{FailedAttempt, Forwarded, HeldAnswer, Relayed, forward};
use crate::upstream::request_body::RequestBody;

/// A request that has been read.
pub struct Inference {
    pub services: web::Data<Services>,
    pub upstreams: Rc<Upstreams>,
    pub request: HttpRequest,
    pub api_kind: ApiKind,
    pub body: RequestBody,
}

/// An endpoint's answer and how the request came to it.
pub struct Served {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BoxBody,
    pub endpoint: Arc<Target>,
    /// Of a request that waited: what it was told first, and how long it waited in all.
    queued: Option<(Queued, Duration)>,
}

impl Inference {
    /// Waits for a lease, telling `updates` of the wait, and then for the first byte of the answer. An endpoint that fails
    /// the request before that is left for another, each tried once, within the request's one deadline.
    ///
    /// # Errors
    /// If there is no lease or no answer.
    pub async fn serve(self, updates: Option<QueueUpdates>) -> Result<Served, ApiError> {
        let Self { services, upstreams, request, api_kind, body } = self;
        let client = client::identify(&request, services.client_header.as_ref());
        let id = request.extensions().get::<RequestId>().expect("every request is given one").clone();
        let first = LeaseRequest::new(id, body.model.clone(), api_kind, client);
        let mut asked = Arc::new(first);
        let mut failed: Option<Lease> = None;
        let deadline = services.desk.deadline();
        let mut queued: Option<(Queued, Duration)> = None;
        let mut failures = Failures::default();
        loop {
            let lease = match services.desk.acquire(asked.clone(), failed.take(), deadline, updates.clone()).await {
                Ok(lease) => lease,
                Err(refusal) => {
                    let (model, retry_after) = (asked.model.clone(), services.retry_after);
                    let refused = |refusal| ApiError::Refused { refusal, model, retry_after };
                    return failures.conclude(refusal, queued, refused);
                }
            };
            if let Some((told, waited)) = lease.queued() {
                queued = Some(queued.map_or((told, waited), |(first, before)| (first, before + waited)));
            }
            let forwarded =
                Forwarded { api_kind, query: request.query_string(), headers: request.headers(), body: &body };
            let endpoint = lease.target().clone();
            let is_last = asked.tried.len() + 1 >= upstreams.config.max_attempts;
            match forward(&upstreams, lease, forwarded, is_last).await {
                Ok(Relayed { status, headers, body }) => {
                    return Ok(Served { status, headers, body: BoxBody::new(body), endpoint, queued });
                }
                Err(FailedAttempt { lease, failure, .. }) if is_last || !failure.can_be_retried() => {
                    lease.end(Outcome::Failed(failure.clone()));
                    return Err(ApiError::AttemptFailed(endpoint.name.clone(), failure));
                }
                Err(FailedAttempt { mut lease, failure, answer }) => {
                    Arc::make_mut(&mut asked).tried.push(endpoint.id);
                    lease.fail(failure.clone());
                    failed = Some(lease);
                    failures.add(endpoint, failure, answer);
                }
            }
        }
    }
}

/// The attempts that came to nothing.
#[derive(Default)]
struct Failures {
    last: Option<(Arc<Target>, Failure, Option<HeldAnswer>)>,
    /// At least one had another reason than that its endpoint was busy.
    some_not_busy: bool,
}

impl Failures {
    fn add(&mut self, endpoint: Arc<Target>, failure: Failure, answer: Option<HeldAnswer>) {
        self.some_not_busy |= !answer.as_ref().is_some_and(HeldAnswer::is_busy);
        self.last = Some((endpoint, failure, answer));
    }

    /// Answers a request that gets no lease any more: with what the last endpoint said, if it said anything and there is no
    /// other left.
    fn conclude(
        self,
        refusal: Refusal,
        queued: Option<(Queued, Duration)>,
        refused: impl FnOnce(Refusal) -> ApiError,
    ) -> Result<Served, ApiError> {
        let (endpoint, failure, answer) = match (refusal, self.last) {
            (Refusal::NothingUntried { estimated_wait }, Some(_)) if !self.some_not_busy => {
                return Err(refused(Refusal::Overloaded { estimated_wait }));
            }
            (Refusal::NothingUntried { .. }, Some(last)) => last,
            (Refusal::QueueTimeout { waited }, _) => {
                let before = queued.map_or(Duration::ZERO, |(_, before)| before);
                return Err(refused(Refusal::QueueTimeout { waited: before + waited }));
            }
            (refusal, _) => return Err(refused(refusal)),
        };
        match answer {
            Some(HeldAnswer { status, headers, body }) => {
                Ok(Served { status, headers, body: BoxBody::new(body), endpoint, queued })
            }
            None => Err(ApiError::AttemptFailed(endpoint.name.clone(), failure)),
        }
    }
}

impl Served {
    /// Returns the answer with what Leaseway adds to its head.
    pub fn into_response(self, is_stream: bool) -> HttpResponse {
        let mut response = HttpResponse::new(self.status);
        *response.headers_mut() = self.headers;
        if let Ok(name) = HeaderValue::from_bytes(self.endpoint.name.as_bytes()) {
            response.headers_mut().insert(HeaderName::from_static("x-leaseway-endpoint"), name);
        }
        if let Some((queued, waited)) = self.queued {
            add_queue_headers(response.headers_mut(), queued, waited);
        }
        if is_stream {
            let (name, value) = no_buffering();
            response.headers_mut().insert(name, value);
        }
        response.set_body(self.body)
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
