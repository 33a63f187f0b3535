//! Live updates for those who wait and ask for them: the head at once, a comment in the stream whenever the place in the
//! line changes, then the endpoint's stream.
//!
//! Only a request that has to wait is answered so; any other gets its ordinary answer, whatever it asks for.

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
use tokio::time::sleep;

use super::error::ApiError;
use super::serving::{Inference, Served, no_buffering};
use crate::dialect::Dialect;
use crate::domain::dispatch::Queued;

/// How long a client hears nothing at most until its stream begins.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The longest answer that is read for its error, in bytes.
const ERROR_MAX: usize = 64 * 1024;

type Serving = Pin<Box<dyn Future<Output = Result<Served, ApiError>>>>;

/// Tells whether the client wants live updates.
pub fn are_wanted(request: &HttpRequest) -> bool {
    request.headers().get("x-leaseway-queue-updates").is_some_and(|value| value == "sse")
}

/// Serves a request for a stream, with updates from the moment it waits.
///
/// # Errors
/// If it is refused, or its endpoint fails, without having waited.
pub async fn answer(inference: Inference) -> Result<HttpResponse, ApiError> {
    let (sender, mut updates) = watch::channel(None);
    let mut serving: Serving = Box::pin(inference.serve(Some(sender)));
    tokio::select! {
        Ok(()) = updates.changed() => updates.mark_changed(),
        served = &mut serving => return Ok(served?.into_response(true)),
    }
    let body = Body { phase: Phase::Waiting(serving), updates };
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")));
    response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")));
    response.insert_header(no_buffering());
    Ok(response.body(BodyStream::new(stream::unfold(body, Body::next))))
}

/// A stream that begins with comments.
struct Body {
    phase: Phase,
    updates: watch::Receiver<Option<Queued>>,
}

enum Phase {
    Waiting(Serving),
    Relaying(BoxBody),
    /// What is left is an event that says why there is no stream.
    Failed(Bytes),
    Done,
}

impl Body {
    async fn next(mut self) -> Option<(Result<Bytes, Box<dyn Error>>, Self)> {
        loop {
            match &mut self.phase {
                Phase::Waiting(serving) => {
                    tokio::select! {
                        biased;
                        served = serving => {
                            self.phase = begin(served).await;
                            continue;
                        }
                        Ok(()) = self.updates.changed() => {
                            if self.updates.borrow().is_none() {
                                continue;
                            }
                        }
                        () = sleep(SILENCE_MAX) => {}
                    }
                    let comment = self.comment();
                    return Some((Ok(comment), self));
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

    /// Returns a comment, which SSE clients ignore: the place in the line, or that an endpoint is at work.
    fn comment(&mut self) -> Bytes {
        match *self.updates.borrow_and_update() {
            Some(Queued { position, estimated_wait: Some(wait) }) => {
                format!(": queued position={position} eta={}\n\n", wait.as_secs()).into()
            }
            Some(Queued { position, estimated_wait: None }) => format!(": queued position={position}\n\n").into(),
            None => Bytes::from_static(b": keep-alive\n\n"),
        }
    }
}

/// Goes over to the endpoint's stream, or to the error that came in its place.
async fn begin(served: Result<Served, ApiError>) -> Phase {
    let Served { status, headers, body, endpoint, .. } = match served {
        Ok(served) => served,
        Err(error) => return Phase::Failed(error.event()),
    };
    let content_type = headers.get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if status.is_success() && is_stream {
        return Phase::Relaying(body);
    }
    let answer = to_bytes_limited(body, ERROR_MAX).await.ok().and_then(Result::ok).unwrap_or_default();
    let told = Dialect::default().relayed_error_event(&answer);
    Phase::Failed(told.unwrap_or_else(|| ApiError::NotAStream { endpoint: endpoint.name.clone(), status }.event()))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, pause};

    use super::*;

    #[actix_web::test]
    async fn a_client_hears_something_every_fifteen_seconds_until_its_stream_begins() {
        pause();
        let (sender, updates) = watch::channel(Some(Queued { position: 2, estimated_wait: None }));
        let mut body = Body { phase: Phase::Waiting(Box::pin(std::future::pending())), updates };
        let started = Instant::now();
        let mut heard = Vec::new();
        for round in 0..4 {
            if round == 2 {
                // It has a lease.
                sender.send_replace(None);
            }
            let (piece, rest) = body.next().await.expect("it goes on");
            heard.push((started.elapsed().as_secs(), String::from_utf8_lossy(&piece.expect("bytes")).into_owned()));
            body = rest;
        }
        let place = ": queued position=2\n\n";
        let at_work = ": keep-alive\n\n";
        assert_eq!(
            heard,
            [(15, place), (30, place), (45, at_work), (60, at_work)].map(|(at, said)| (at, said.to_owned()))
        );
    }
}
