//! Reads an endpoint's answer piece by piece and tells its end from a cut.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{StatusCode, Version};
use awc::ClientResponse;
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::Wire;
use crate::clock;
use crate::domain::endpoint::Target;
use crate::domain::request::Failure;
use crate::domain::time::Moment;

/// What an endpoint's connection gave.
pub enum Read {
    Bytes(Bytes),
    End(End),
    Broken(Failure),
}

/// An end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Length or chunks say that nothing is missing.
    Certain,
    /// The connection was closed, which may have been a cut.
    Uncertain,
}

/// Tells whether a head says where the body ends.
pub fn is_framed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// An answer whose head has come.
pub struct AnswerReader {
    target: Arc<Target>,
    response: ClientResponse,
    wire: Rc<Wire>,
    /// Bytes already read.
    next: Option<Bytes>,
    idle_timeout: Duration,
    last_read: Instant,
    idle_timer: Pin<Box<Sleep>>,
}

impl AnswerReader {
    /// Wraps an answer that comes over `wire` and may pause for `idle_timeout` once its first bytes have come.
    pub fn new(target: Arc<Target>, response: ClientResponse, wire: Rc<Wire>, idle_timeout: Duration) -> Self {
        let last_read = Instant::now();
        let idle_timer = Box::pin(sleep_until(last_read + idle_timeout));
        Self { target, response, wire, next: None, idle_timeout, last_read, idle_timer }
    }

    pub fn response(&self) -> &ClientResponse {
        &self.response
    }

    /// Tells why the answer cannot be what awc takes it for. Its connection is then out of use: awc has put it back with the
    /// rest of the answer still to come, which would pass as the answer to another request.
    ///
    /// awc takes an interim answer (RFC 9110 section 15.2) for the final one, and a body in HTTP/1.1 without length and
    /// chunks, which may end with the connection (RFC 9112 section 6.3), for an empty one. An answer with both length and
    /// chunks is an error (RFC 9112 section 6.1), which the client's side of Leaseway would frame wrongly.
    pub fn misread(&self) -> Option<&'static str> {
        let (status, headers) = (self.response.status(), self.response.headers());
        let reason = if status.is_informational() {
            "an interim answer, which is not supported"
        } else if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
            "the answer has both length and chunks"
        } else if !self.has_no_body() && !is_framed(headers) && self.response.version() == Version::HTTP_11 {
            "the answer has neither length nor chunks"
        } else {
            return None;
        };
        self.wire.retire();
        Some(reason)
    }

    /// Tells whether the answer may belong to another request.
    pub fn is_doubtful(&self) -> bool {
        self.wire.is_doubtful()
    }

    /// Tells whether the status says that there is no body, whatever else the head says.
    pub fn has_no_body(&self) -> bool {
        matches!(self.response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Waits for the first bytes, however long they take; false if the body is empty.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn read_first(&mut self) -> Result<bool, Failure> {
        loop {
            match self.response.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.heard();
                    self.put_back(bytes);
                    return Ok(true);
                }
                Some(Err(error)) => match self.broken(error) {
                    Read::Broken(failure) => return Err(failure),
                    Read::Bytes(_) | Read::End(_) => return Ok(false),
                },
                None => {
                    self.settle();
                    return Ok(false);
                }
            }
        }
    }

    /// Reads the rest of a body of at most `limit` bytes; `None` if it is longer, and then nothing is lost of it.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn read_rest(&mut self, limit: usize) -> Result<Option<Bytes>, Failure> {
        let mut body = BytesMut::new();
        loop {
            match poll_fn(|cx| self.poll_read(cx)).await {
                Read::Bytes(bytes) => body.extend_from_slice(&bytes),
                Read::End(_) => return Ok(Some(body.freeze())),
                Read::Broken(failure) => return Err(failure),
            }
            if body.len() > limit {
                self.put_back(body.freeze());
                return Ok(None);
            }
        }
    }

    /// Makes `bytes` the next to be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.next = Some(bytes);
    }

    /// Returns when bytes came last.
    pub fn last_read(&self) -> Moment {
        clock::moment(self.last_read)
    }

    /// Takes note of bytes that came. Only a good answer shows that the endpoint is well.
    fn heard(&mut self) {
        self.last_read = Instant::now();
        if self.response.status().as_u16() < 400 {
            self.target.hear(clock::moment(self.last_read));
        }
    }

    /// Checks the connection once the answer has ended by its length or its chunks.
    pub fn settle(&self) {
        let headers = self.response.headers();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if !self.has_no_body() {
            self.wire.settle(length);
        } else if is_chunked || length.is_some_and(|length| length > 0) {
            // What the head announces was not read.
            self.wire.retire();
        } else {
            self.wire.settle(Some(0));
        }
    }

    /// Reads on; must not be called again after an end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        if let Some(bytes) = self.next.take() {
            return Poll::Ready(Read::Bytes(bytes));
        }
        match Pin::new(&mut self.response).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.heard();
                Poll::Ready(Read::Bytes(bytes))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broken(error)),
            Poll::Ready(None) => {
                self.settle();
                Poll::Ready(Read::End(if self.target.is_https() { End::Uncertain } else { End::Certain }))
            }
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                Poll::Ready(Read::Broken(Failure::IdleTimeout))
            }
        }
    }

    /// Judges a broken connection: it ends a body that has neither length nor chunks and cuts any other.
    fn broken(&self, error: awc::error::PayloadError) -> Read {
        if is_framed(self.response.headers()) {
            Read::Broken(Failure::ConnectionLost(error.to_string()))
        } else {
            Read::End(End::Uncertain)
        }
    }

    /// Waits until nothing was read for the idle time. The timer is moved only when it fires, not for every read.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.idle_timer.as_mut().poll(cx));
            let deadline = self.last_read + self.idle_timeout;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.idle_timer.as_mut().reset(deadline);
        }
    }
}
