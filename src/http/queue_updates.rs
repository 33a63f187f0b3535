//! Live updates for waiting clients that ask for them: the head at once, a comment in the stream whenever the request's
//! place in the queue changes, then the endpoint's stream.
//!
//! Only a request that has to wait gets updates; every other request gets its ordinary answer, even if it asks for updates.

use std::error::Error;
use std::pin::Pin;
use std::time::Duration;

use actix_web::body::{BodyStream, BoxBody, MessageBody, to_bytes_limited};
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::HttpReply;
use super::error::ApiError;
use super::serving::{Inference, Served, no_buffering};
use crate::dialect::Dialect;
use crate::domain::dispatch::Queued;

/// The longest time that a client hears nothing until its stream begins.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The longest answer that is read to find its error, in bytes.
const ERROR_MAX: usize = 64 * 1024;

type Serving = Pin<Box<dyn Future<Output = Result<Served, ApiError>>>>;

/// Tells whether the client wants live updates.
pub fn are_wanted(request: &HttpRequest) -> bool {
    request.headers().get("x-leaseway-queue-updates").is_some_and(|value| value == "sse")
}

/// Serves a request for a stream, with updates from the moment that it begins to wait.
///
/// # Errors
/// If the request is refused, or its endpoint fails, before it has waited.
pub async fn answer(inference: Inference) -> HttpReply {
    let (sender, mut updates) = watch::channel(None);
    let dialect = Dialect::of(inference.api_kind);
    let mut serving: Serving = Box::pin(inference.serve(Some(sender)));
    tokio::select! {
        Ok(()) = updates.changed() => updates.mark_changed(),
        served = &mut serving => return Ok(served?.into_response(true)),
    }
    let body = Body::new(serving, updates, dialect);
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")));
    response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")));
    response.insert_header(no_buffering());
    Ok(response.body(BodyStream::new(stream::unfold(body, Body::next))))
}

/// The body of the response: comments while the request waits, then the endpoint's stream.
struct Body {
    phase: Phase,
    /// The form of errors.
    dialect: Dialect,
    updates: watch::Receiver<Option<Queued>>,
    /// Ends when the client has heard nothing for [`SILENCE_MAX`]. Only a comment restarts this timer; what the client does not
    /// hear must not prolong the silence.
    silence: Pin<Box<Sleep>>,
}

/// How far the response has come.
enum Phase {
    /// The request waits for a lease, or for the first byte of its answer.
    Waiting(Serving),
    /// An answer has come. If it is not a stream, it is being read to find its error.
    Beginning(Pin<Box<dyn Future<Output = Phase>>>),
    /// The endpoint's stream is relayed.
    Relaying(BoxBody),
    /// One event is left to send; it says why there is no stream.
    Failed(Bytes),
    /// Nothing is left to send.
    Done,
}

impl Body {
    fn new(serving: Serving, updates: watch::Receiver<Option<Queued>>, dialect: Dialect) -> Self {
        Self { phase: Phase::Waiting(serving), dialect, updates, silence: Box::pin(sleep(SILENCE_MAX)) }
    }

    /// Returns the next piece of the stream; `None` after its end.
    async fn next(mut self) -> Option<(Result<Bytes, Box<dyn Error>>, Self)> {
        loop {
            match &mut self.phase {
                Phase::Waiting(serving) => {
                    tokio::select! {
                        biased;
                        served = serving => {
                            self.phase = Phase::Beginning(Box::pin(begin(served, self.dialect)));
                            continue;
                        }
                        Ok(()) = self.updates.changed() => {
                            if self.updates.borrow().is_none() {
                                continue;
                            }
                        }
                        () = &mut self.silence => {}
                    }
                    return Some((Ok(self.comment()), self));
                }
                Phase::Beginning(beginning) => {
                    tokio::select! {
                        biased;
                        phase = beginning => {
                            self.phase = phase;
                            continue;
                        }
                        () = &mut self.silence => {}
                    }
                    return Some((Ok(self.comment()), self));
                }
                Phase::Relaying(body) => {
                    let piece = poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await?;
                    return Some((piece, self));
                }
                Phase::Failed(event) => {
                    let event = std::mem::take(event);
                    self.phase = Phase::Done;
                    return Some((Ok(event), self));
                }
                Phase::Done => return None,
            }
        }
    }

    /// Returns a comment, which SSE clients ignore. It tells the place in the queue, or only keeps the connection alive while
    /// an endpoint is at work.
    fn comment(&mut self) -> Bytes {
        self.silence = Box::pin(sleep(SILENCE_MAX));
        match *self.updates.borrow_and_update() {
            Some(Queued { position, estimated_wait: Some(wait) }) => {
                format!(": queued position={position} eta={}\n\n", wait.as_secs()).into()
            }
            Some(Queued { position, estimated_wait: None }) => format!(": queued position={position}\n\n").into(),
            None => Bytes::from_static(b": keep-alive\n\n"),
        }
    }
}

/// Returns the phase after the answer has come: the endpoint's stream, or the error that came in its place.
async fn begin(served: Result<Served, ApiError>, dialect: Dialect) -> Phase {
    let Served { status, headers, body, endpoint, .. } = match served {
        Ok(served) => served,
        Err(error) => return Phase::Failed(error.event(dialect)),
    };
    let content_type = headers.get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if status.is_success() && is_stream {
        return Phase::Relaying(body);
    }
    let answer = to_bytes_limited(body, ERROR_MAX).await.ok().and_then(Result::ok).unwrap_or_default();
    let told = dialect.relayed_error_event(&answer);
    let no_stream = || ApiError::NotAStream { endpoint: endpoint.name.clone(), status }.event(dialect);
    Phase::Failed(told.unwrap_or_else(no_stream))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, pause};

    use super::*;

    /// Collects up to `pieces` pieces that a client hears, each with its time in seconds since `started`.
    async fn hear(mut body: Body, started: Instant, pieces: usize) -> (Vec<(u64, String)>, Option<Body>) {
        let mut heard = Vec::new();
        for _ in 0..pieces {
            let Some((piece, rest)) = body.next().await else { return (heard, None) };
            let text = String::from_utf8_lossy(&piece.expect("bytes")).into_owned();
            heard.push((started.elapsed().as_secs(), text));
            body = rest;
        }
        (heard, Some(body))
    }

    fn at(heard: &[(u64, &str)]) -> Vec<(u64, String)> {
        heard.iter().map(|(at, said)| (*at, (*said).to_owned())).collect()
    }

    const PLACE: &str = ": queued position=2\n\n";
    const AT_WORK: &str = ": keep-alive\n\n";

    #[actix_web::test]
    async fn a_client_hears_something_every_fifteen_seconds_until_its_stream_begins() {
        pause();
        let (sender, updates) = watch::channel(Some(Queued { position: 2, estimated_wait: None }));
        let started = Instant::now();
        let body = Body::new(Box::pin(std::future::pending()), updates, Dialect::OpenAi);
        let (heard, body) = hear(body, started, 2).await;
        assert_eq!(heard, at(&[(15, PLACE), (30, PLACE)]));
        // The request gets its lease.
        sender.send_replace(None);
        let (heard, _) = hear(body.expect("it goes on"), started, 2).await;
        assert_eq!(heard, at(&[(45, AT_WORK), (60, AT_WORK)]));
    }

    #[actix_web::test]
    async fn a_lease_that_comes_in_silence_does_not_prolong_it() {
        pause();
        let (sender, updates) = watch::channel(Some(Queued { position: 2, estimated_wait: None }));
        let started = Instant::now();
        let body = Body::new(Box::pin(std::future::pending()), updates, Dialect::OpenAi);
        let leased = async {
            sleep(SILENCE_MAX - Duration::from_secs(1)).await;
            sender.send_replace(None);
            sender
        };
        let ((heard, _), _sender) = futures_util::future::join(hear(body, started, 2), leased).await;
        assert_eq!(heard, at(&[(15, AT_WORK), (30, AT_WORK)]));
    }

    #[actix_web::test]
    async fn an_answer_that_is_read_for_its_error_is_no_reason_for_silence() {
        pause();
        let (_sender, updates) = watch::channel(None);
        let started = Instant::now();
        let mut body = Body::new(Box::pin(std::future::pending()), updates, Dialect::OpenAi);
        let read = async {
            sleep(Duration::from_secs(20)).await;
            Phase::Failed(Bytes::from_static(b"data: {}\n\n"))
        };
        body.phase = Phase::Beginning(Box::pin(read));
        let (heard, rest) = hear(body, started, 3).await;
        assert_eq!(heard, at(&[(15, AT_WORK), (20, "data: {}\n\n")]));
        assert!(rest.is_none());
    }
}
