//! Sends a leased request to its endpoint and turns the answer into a body that carries the lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::ParseError;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use awc::error::{ConnectError, SendRequestError};
use awc::{Client, SendClientRequest};
use tokio::time::{Instant, timeout_at};

use super::answer::AnswerReader;
use super::body::LeasedBody;
use super::client::Upstreams;
use super::headers;
use super::request_body::RequestBody;
use super::stream::is_stale;
use crate::domain::endpoint::Target;
use crate::domain::request::{ApiKind, Failure, Outcome};
use crate::lease::Lease;

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

/// Why there is no answer to relay. Names the endpoint, never its address.
#[derive(Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// No HTTP answer came.
    NoAnswer { endpoint: String },
    /// The first byte of the body did not come in time.
    FirstByteTimeout { endpoint: String, waited: Duration },
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardError::NoAnswer { endpoint } => write!(f, "endpoint `{endpoint}` did not answer"),
            ForwardError::FirstByteTimeout { endpoint, waited } => {
                write!(f, "endpoint `{endpoint}` sent no byte of its answer within {} s", waited.as_secs())
            }
        }
    }
}

/// Sends a request and waits for the first byte of the answer's body, or its end.
///
/// The lease travels inside the answer's body. Dropping the future abandons the lease and closes the connection.
///
/// # Errors
/// If there is no answer; the lease has then ended as failed.
pub async fn forward(upstreams: &Upstreams, lease: Lease, request: Forwarded<'_>) -> Result<Relayed, ForwardError> {
    let waited = upstreams.config.first_byte_timeout;
    let deadline = Instant::now() + waited;
    let endpoint = lease.target().name.clone();
    match timeout_at(deadline, exchange(upstreams, lease.target(), &request)).await {
        Ok(Ok(answer)) => Ok(answer.relay(lease)),
        Ok(Err(failure)) => {
            log::debug!("request failed endpoint={endpoint} error=\"{failure}\"");
            lease.end(Outcome::Failed(failure));
            Err(ForwardError::NoAnswer { endpoint })
        }
        Err(_) => {
            lease.end(Outcome::Failed(Failure::FirstByteTimeout));
            Err(ForwardError::FirstByteTimeout { endpoint, waited })
        }
    }
}

/// An answer whose first bytes, or end, have come.
struct Answer {
    reader: AnswerReader,
    is_empty: bool,
    /// Leaseway asked for usage in the client's place.
    usage_asked: bool,
}

/// Sends the request, and a second time if the endpoint does not take the question for usage.
async fn exchange(upstreams: &Upstreams, target: &Arc<Target>, request: &Forwarded<'_>) -> Result<Answer, Failure> {
    let ask = request.body.can_ask_for_usage() && !target.refuses_usage_option();
    let answer = send(upstreams, target, request, ask).await?;
    if !ask || answer.status() != StatusCode::BAD_REQUEST {
        return Ok(answer);
    }
    drop(answer);
    let plain = send(upstreams, target, request, false).await?;
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
) -> Result<Answer, Failure> {
    let response = match send_by(&upstreams.client(target), target, request, ask_for_usage).await {
        Err(error) if is_caused_by_stale_connection(&error) => {
            log::debug!("kept connection was stale, sent again endpoint={}", target.name);
            send_by(&upstreams.fresh_client(target), target, request, ask_for_usage).await
        }
        response => response,
    };
    let mut reader = AnswerReader::new(target.clone(), response.map_err(failure)?, upstreams.config.idle_timeout);
    if let Some(reason) = reader.misread() {
        // awc has put the connection back already, with the rest of the answer still to come on it. Nothing has run since.
        upstreams.forget(target);
        return Err(Failure::ConnectionLost(reason.to_owned()));
    }
    let is_empty = reader.has_no_body() || !reader.read_first().await?;
    Ok(Answer { reader, is_empty, usage_asked: ask_for_usage })
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

    fn relay(self, lease: Lease) -> Relayed {
        let status = self.status();
        let headers = headers::to_client(self.reader.response().headers());
        let body = if self.is_empty {
            LeasedBody::empty(lease, self.reader)
        } else {
            LeasedBody::new(lease, self.reader, self.usage_asked)
        };
        Relayed { status, headers, body }
    }
}

/// Sorts awc's errors: no connection, or one that broke before the answer.
fn failure(error: SendRequestError) -> Failure {
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => Failure::ConnectionLost("closed".to_owned()),
        SendRequestError::Connect(error) => Failure::Unreachable(error.to_string()),
        error => Failure::ConnectionLost(error.to_string()),
    }
}
