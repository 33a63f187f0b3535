//! Sends a leased request to its endpoint and turns the answer into a body that carries the lease.

use std::sync::Arc;
use std::time::Duration;

use actix_http::error::ParseError;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use awc::error::{ConnectError, SendRequestError};
use awc::{Client, SendClientRequest};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::answer::AnswerReader;
use super::body::LeasedBody;
use super::client::Upstreams;
use super::headers;
use super::request_body::RequestBody;
use super::stream::is_stale;
use crate::dialect::Dialect;
use crate::domain::endpoint::Target;
use crate::domain::request::{ApiKind, Failure};
use crate::lease::Lease;

/// The longest answer that is held back, in bytes.
const HELD_MAX: usize = 64 * 1024;

/// How long the body of an error is waited for that another endpoint may do better than.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// How soon a stale connection shows. An endpoint that closes it later has had the request.
const STALE_WITHIN: Duration = Duration::from_millis(250);

/// What is sent to an endpoint.
pub struct Forwarded<'a> {
    pub api_kind: ApiKind,
    /// Without the question mark; may be empty.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a RequestBody,
}

/// An endpoint's answer, its first byte read.
pub struct Relayed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: LeasedBody,
}

/// An endpoint's answer that was not relayed, because another endpoint may do better.
pub struct HeldAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl HeldAnswer {
    /// Tells whether the endpoint has too much to do, which is not the same as loading or failing.
    pub fn is_busy(&self) -> bool {
        let is_loading = || memchr::memmem::find(&self.body.to_ascii_lowercase(), b"loading").is_some();
        self.status == StatusCode::TOO_MANY_REQUESTS
            || (self.status == StatusCode::SERVICE_UNAVAILABLE && !is_loading())
    }
}

/// An attempt of which nothing was relayed.
pub struct NotRelayed {
    /// To be ended as failed.
    pub lease: Lease,
    pub failure: Failure,
    /// What the endpoint answered, if it did.
    pub answer: Option<HeldAnswer>,
}

/// Sends a request and waits for the first byte of the answer's body, or its end.
///
/// The lease travels inside the answer's body. Dropping the future abandons the lease and closes the connection. If
/// `is_last`, what the endpoint answers is relayed whatever it is; else an answer that another endpoint may better is a
/// failure.
///
/// # Errors
/// If there is nothing to relay.
pub async fn forward(
    upstreams: &Upstreams,
    lease: Lease,
    request: Forwarded<'_>,
    is_last: bool,
) -> Result<Relayed, NotRelayed> {
    let deadline = Instant::now() + upstreams.config.first_byte_timeout;
    let endpoint = lease.target().clone();
    let attempt = async {
        let mut answer = exchange(upstreams, &endpoint, &request, deadline).await?;
        let held = if is_last { None } else { answer.hold(deadline).await? };
        Ok((answer, held))
    };
    let (failure, answer) = match timeout_at(deadline, attempt).await {
        Ok(Ok((answer, None))) => return Ok(answer.relay(lease, Dialect::of(request.api_kind))),
        Ok(Ok((_, Some(held)))) => (Failure::Status(held.status.as_u16()), Some(held)),
        Ok(Err(failure)) => (failure, None),
        Err(_) => (Failure::FirstByteTimeout, None),
    };
    log::debug!("attempt failed endpoint={} error=\"{failure}\"", endpoint.name);
    Err(NotRelayed { lease, failure, answer })
}

/// An answer whose first bytes, or end, have come.
struct Answer {
    reader: AnswerReader,
    is_empty: bool,
    /// Leaseway asked for usage in the client's place.
    usage_asked: bool,
}

/// Sends the request, and a second time if the endpoint does not take the question for usage.
async fn exchange(
    upstreams: &Upstreams,
    target: &Arc<Target>,
    request: &Forwarded<'_>,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let ask = request.body.can_ask_for_usage() && !target.refuses_usage_option();
    let answer = send(upstreams, target, request, ask, deadline).await?;
    if !ask || answer.status() != StatusCode::BAD_REQUEST {
        return Ok(answer);
    }
    drop(answer);
    let plain = send(upstreams, target, request, false, deadline).await?;
    if plain.status() != StatusCode::BAD_REQUEST {
        target.remember_usage_option_refused();
    }
    Ok(plain)
}

/// Sends the request once; over again on a connection of its own if the one that was kept turns out to be stale: the
/// endpoint closed it without a byte of an answer.
async fn send(
    upstreams: &Upstreams,
    target: &Arc<Target>,
    request: &Forwarded<'_>,
    ask_for_usage: bool,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let sent = Instant::now();
    let response = match send_by(&upstreams.client(target), target, request, ask_for_usage).await {
        Err(error) if is_caused_by_stale_connection(&error) && sent.elapsed() < STALE_WITHIN => {
            log::debug!("kept connection was stale, sent again endpoint={}", target.name);
            send_by(&upstreams.fresh_client(target), target, request, ask_for_usage).await
        }
        response => response,
    };
    let response = response.map_err(|error| failure(error, request.body.is_long()))?;
    let mut reader = AnswerReader::new(target.clone(), response, upstreams.config.idle_timeout);
    if let Some(reason) = reader.misread() {
        // awc has put the connection back already, with the rest of the answer still to come on it. Nothing has run since.
        upstreams.forget(target);
        return Err(Failure::ConnectionLost(reason.to_owned()));
    }
    let status = reader.response().status().as_u16();
    let is_empty = reader.has_no_body() || !wait_for_body(status, deadline, reader.read_first()).await?;
    Ok(Answer { reader, is_empty, usage_asked: ask_for_usage })
}

/// Waits for the body of an answer, or a part of it. That of an error which another endpoint may better is not waited for
/// long, and if it breaks off, the status says what has failed.
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

fn send_by(client: &Client, target: &Target, request: &Forwarded<'_>, ask_for_usage: bool) -> SendClientRequest {
    let mark = if request.query.is_empty() { "" } else { "?" };
    let uri = format!("{}{}{mark}{}", target.root_url, request.api_kind.path(), request.query);
    let mut sent = client.request(Method::POST, uri);
    *sent.headers_mut() = headers::to_endpoint(request.headers, target.api_key.as_deref());
    sent.send_body(request.body.to_send(ask_for_usage))
}

fn is_caused_by_stale_connection(error: &SendRequestError) -> bool {
    match error {
        SendRequestError::Send(error) | SendRequestError::Response(ParseError::Io(error)) => is_stale(error),
        _ => false,
    }
}

impl Answer {
    fn status(&self) -> StatusCode {
        self.reader.response().status()
    }

    /// Reads the answer to its end if another endpoint may do better; not one that is long, which no error is.
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

    fn relay(self, lease: Lease, dialect: Dialect) -> Relayed {
        let status = self.status();
        let headers = headers::to_client(self.reader.response().headers());
        let body = if self.is_empty {
            LeasedBody::empty(lease, dialect, self.reader)
        } else {
            LeasedBody::new(lease, dialect, self.reader, self.usage_asked)
        };
        Relayed { status, headers, body }
    }
}

/// Sorts awc's errors: no connection, or one that broke before the answer. An endpoint that refuses a long request, 413 for
/// example, may close the connection before it has all of it, and then awc does not see the answer.
fn failure(error: SendRequestError, is_long: bool) -> Failure {
    match error {
        SendRequestError::Send(_) if is_long => Failure::RequestCutOff,
        SendRequestError::Connect(ConnectError::Disconnected) => Failure::ConnectionLost("closed".to_owned()),
        SendRequestError::Connect(error) => Failure::Unreachable(error.to_string()),
        error => Failure::ConnectionLost(error.to_string()),
    }
}
