//! Sends a leased request to its endpoint and turns the answer into a body that carries the lease.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::ParseError;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use awc::ClientResponse;
use awc::error::{ConnectError, SendRequestError};
use bytes::Bytes;
use futures_util::future::poll_fn;
use tokio::time::{Instant, timeout_at};

use super::answer::AnswerReader;
use super::body::LeasedBody;
use super::client::{Route, Upstreams};
use super::headers;
use super::request_body::RequestBody;
use super::via::VIA;
use super::wire::{Unsent, Wire};
use crate::dialect::Dialect;
use crate::domain::request::{ApiKind, Failure};
use crate::domain::target::Target;
use crate::lease::Lease;

/// The longest answer that is held back, in bytes.
const HELD_MAX: usize = 64 * 1024;

/// How long the body of an error answer may take if another endpoint may do better.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// A client's request as it is sent to an endpoint.
pub struct Forwarded<'a> {
    /// The API that the request uses.
    pub api_kind: ApiKind,
    /// The query of the URL without its question mark; may be empty.
    pub query: &'a str,
    /// The client's headers, of which some are not sent.
    pub headers: &'a HeaderMap,
    /// The body of the request.
    pub body: &'a RequestBody,
}

/// An endpoint's answer whose first byte has been read.
pub struct Relayed {
    /// The endpoint's status.
    pub status: StatusCode,
    /// The endpoint's headers for the client.
    pub headers: HeaderMap,
    /// The endpoint's body, which carries the lease.
    pub body: LeasedBody,
}

/// An endpoint's answer that was not relayed, because another endpoint may do better.
pub struct HeldAnswer {
    /// The endpoint's status.
    pub status: StatusCode,
    /// The endpoint's headers for the client.
    pub headers: HeaderMap,
    /// The endpoint's whole body; at most 64 KiB.
    pub body: Bytes,
}

impl HeldAnswer {
    /// Tells whether the endpoint has too much to do, and is neither loading its model nor failing.
    pub fn is_busy(&self) -> bool {
        let is_loading = || memchr::memmem::find(&self.body.to_ascii_lowercase(), b"loading").is_some();
        self.status == StatusCode::TOO_MANY_REQUESTS
            || (self.status == StatusCode::SERVICE_UNAVAILABLE && !is_loading())
    }
}

/// An attempt of which nothing was relayed.
pub struct NotRelayed {
    /// The lease of the attempt, which the caller must end as failed.
    pub lease: Lease,
    /// Why the attempt failed.
    pub failure: Failure,
    /// The endpoint's answer; `None` if no whole answer came.
    pub answer: Option<HeldAnswer>,
    /// How often the request was sent, 1 or 2 times.
    pub executions: usize,
}

/// Sends a request and waits for the first byte of the answer's body, or its end.
///
/// The lease travels inside the answer's body. Dropping the future abandons the lease and closes the connection. The request
/// is sent at most `executions_left` times (at least 1). Every answer to the last of these is relayed; an earlier answer is a
/// failure if another endpoint may do better.
///
/// # Errors
/// If there is nothing to relay.
pub async fn forward(
    upstreams: &Upstreams,
    lease: Lease,
    request: Forwarded<'_>,
    executions_left: usize,
) -> Result<Relayed, NotRelayed> {
    let executions = Cell::new(1);
    let deadline = Instant::now() + upstreams.config.first_byte_timeout;
    let endpoint = lease.target().clone();
    let attempt = async {
        let may_ask_again = executions_left > 1;
        let mut answer = exchange(upstreams, &endpoint, &request, deadline, may_ask_again, &executions).await?;
        let is_last = executions.get() >= executions_left;
        let held = if is_last { None } else { answer.hold(deadline).await? };
        Ok((answer, held))
    };
    let (failure, answer) = match timeout_at(deadline, attempt).await {
        Ok(Ok((answer, None))) => return Ok(answer.relay(lease, &request)),
        Ok(Ok((_, Some(held)))) => (Failure::Status(held.status.as_u16()), Some(held)),
        Ok(Err(failure)) => (failure, None),
        Err(_) => (Failure::FirstByteTimeout, None),
    };
    log::debug!("attempt failed endpoint={} error=\"{failure}\"", endpoint.name);
    Err(NotRelayed { lease, failure, answer, executions: executions.get() })
}

/// An answer whose first bytes, or end, have come.
struct BegunAnswer {
    reader: AnswerReader,
    /// The answer has no body.
    is_empty: bool,
    /// Leaseway asked for usage, which the client did not.
    usage_asked: bool,
}

/// Sends the request, and sends it again without asking for usage if the endpoint refuses that option. Usage is asked for only
/// if the request may be sent again. `executions` counts how often the request was sent.
async fn exchange(
    upstreams: &Upstreams,
    target: &Arc<Target>,
    request: &Forwarded<'_>,
    deadline: Instant,
    may_ask_again: bool,
    executions: &Cell<usize>,
) -> Result<BegunAnswer, Failure> {
    let needs_question = request.body.can_ask_for_usage() && !target.counts_unasked() && !target.refuses_usage_option();
    let ask = needs_question && may_ask_again;
    let answer = send(upstreams, target, request, ask, deadline).await?;
    if !ask || answer.status() != StatusCode::BAD_REQUEST {
        return Ok(answer);
    }
    drop(answer);
    executions.set(executions.get() + 1);
    let plain = send(upstreams, target, request, false, deadline).await?;
    if plain.status().is_success() {
        target.remember_usage_option_refused();
    }
    Ok(plain)
}

/// Sends the request once. If no byte of it could leave on a kept connection, it is sent on a new connection, since the
/// endpoint cannot have begun to work on it.
async fn send(
    upstreams: &Upstreams,
    target: &Arc<Target>,
    request: &Forwarded<'_>,
    ask_for_usage: bool,
    deadline: Instant,
) -> Result<BegunAnswer, Failure> {
    let sent = match send_by(upstreams, &upstreams.route(target), target, request, ask_for_usage).await {
        Err(error) if matches!(unsent(&error), Some(Unsent::Closed | Unsent::Preceded)) => {
            log::debug!("request sent on a new connection endpoint={} error=\"{error}\"", target.name);
            send_by(upstreams, &upstreams.fresh_route(target), target, request, ask_for_usage).await
        }
        sent => sent,
    };
    let (response, wire) = sent.map_err(|error| failure(error, request.body.is_long()))?;
    let mut reader = AnswerReader::new(target.clone(), response, wire, upstreams.config.idle_timeout);
    if let Some(reason) = reader.misread() {
        return Err(Failure::ConnectionLost(reason.to_owned()));
    }
    let status = reader.response().status().as_u16();
    let is_empty = if reader.has_no_body() {
        reader.settle();
        true
    } else {
        !wait_for_body(status, deadline, reader.read_first()).await?
    };
    if reader.is_doubtful() {
        return Err(Failure::ConnectionLost("the answer may belong to another request".to_owned()));
    }
    Ok(BegunAnswer { reader, is_empty, usage_asked: ask_for_usage })
}

/// Waits for the body of an answer, or a part of it. If another endpoint may do better than this answer, the wait is at most
/// [`ERROR_WAIT`], and a body that breaks off fails with the status of the answer.
async fn wait_for_body<T>(
    status: u16,
    deadline: Instant,
    body: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let failure = Failure::Status(status);
    if !failure.can_be_retried() {
        return body.await;
    }
    timeout_at(deadline.min(Instant::now() + ERROR_WAIT), body).await.ok().and_then(Result::ok).ok_or(failure)
}

/// Sends the request over one route. Returns the head of the answer and the connection on which it comes.
async fn send_by(
    upstreams: &Upstreams,
    route: &Route,
    target: &Target,
    request: &Forwarded<'_>,
    ask_for_usage: bool,
) -> Result<(ClientResponse, Rc<Wire>), SendRequestError> {
    let mark = if request.query.is_empty() { "" } else { "?" };
    let uri = format!("{}{}{mark}{}", target.root_url, request.api_kind.path(), request.query);
    let mut sent = route.client.request(Method::POST, uri);
    *sent.headers_mut() =
        headers::to_endpoint(request.headers, &upstreams.config.drop_headers, target.api_key.as_deref());
    sent.headers_mut().append(VIA, upstreams.instance.clone());
    if route.peer.is_fresh() {
        sent = sent.force_close();
    }
    let mut sending = pin!(sent.send_body(request.body.to_send(ask_for_usage)));
    let mut wire: Option<Rc<Wire>> = None;
    let response = poll_fn(|cx| {
        let polled = sending.as_mut().poll(cx);
        // Nothing else runs while this request is polled, so that a connection begun in this poll belongs to it.
        if let Some(begun) = route.peer.take_begun() {
            wire = Some(begun);
        }
        polled
    })
    .await;
    match (response, wire) {
        (Ok(response), Some(wire)) => Ok((response, wire)),
        (Ok(_), None) => Err(SendRequestError::Connect(ConnectError::Disconnected)),
        (Err(error), wire) => {
            // Bytes that are not HTTP on a kept connection are the rest of a surplus answer whose beginning went unseen.
            if let (SendRequestError::Response(error), Some(wire)) = (&error, wire)
                && !matches!(error, ParseError::Io(_))
                && wire.is_reused()
            {
                wire.catch();
            }
            Err(error)
        }
    }
}

/// Returns why a request was not wholly sent, if the error says so.
fn unsent(error: &SendRequestError) -> Option<Unsent> {
    match error {
        SendRequestError::Send(error) | SendRequestError::Response(ParseError::Io(error)) => Unsent::of(error),
        _ => None,
    }
}

impl BegunAnswer {
    fn status(&self) -> StatusCode {
        self.reader.response().status()
    }

    /// Reads the answer to its end if another endpoint may do better. Returns `None` if no other endpoint may,
    /// or if the answer is longer than [`HELD_MAX`], which no error answer is.
    async fn hold(&mut self, deadline: Instant) -> Result<Option<HeldAnswer>, Failure> {
        let status = self.status();
        if !Failure::Status(status.as_u16()).can_be_retried() {
            return Ok(None);
        }
        let body = match self.is_empty {
            true => Some(Bytes::new()),
            false => wait_for_body(status.as_u16(), deadline, self.reader.read_rest(HELD_MAX)).await?,
        };
        let headers = headers::to_client(self.reader.response().headers());
        Ok(body.map(|body| HeldAnswer { status, headers, body }))
    }

    fn relay(self, lease: Lease, request: &Forwarded<'_>) -> Relayed {
        let (dialect, asked) = (Dialect::of(request.api_kind), request.body.model.clone());
        let status = self.status();
        if status.is_success() {
            lease.answer_begins();
        }
        let headers = headers::to_client(self.reader.response().headers());
        let body = if self.is_empty {
            LeasedBody::empty(lease, dialect, asked, self.reader)
        } else {
            LeasedBody::new(lease, dialect, asked, self.reader, self.usage_asked)
        };
        Relayed { status, headers, body }
    }
}

/// Returns the failure for an error of awc: no connection, or a connection that broke before the answer. An endpoint that
/// refuses a long request, for example with 413, may close the connection before all of the request has come, and then awc
/// does not see the answer.
fn failure(error: SendRequestError, is_long: bool) -> Failure {
    match error {
        SendRequestError::Send(error) if Unsent::of(&error).is_some() => Failure::ConnectionLost(error.to_string()),
        SendRequestError::Send(_) if is_long => Failure::RequestCutOff,
        SendRequestError::Connect(ConnectError::Disconnected) => Failure::ConnectionLost("closed".to_owned()),
        SendRequestError::Connect(error) => Failure::Unreachable(error.to_string()),
        error => Failure::ConnectionLost(error.to_string()),
    }
}
