//! Reads an endpoint's answer piece by piece and distinguishes its end from a cut.

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
use crate::domain::request::Failure;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// What one read of an answer yields.
pub enum Read {
    /// The next bytes of the body.
    Bytes(Bytes),
    /// The body has ended.
    End(End),
    /// The body broke off.
    Broken(Failure),
}

/// How certain it is that an answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The length or the last chunk shows that nothing is missing.
    Certain,
    /// Only the closed connection shows the end, so that a part may be missing.
    Uncertain,
}

/// Tells whether a head says where its body ends, by a length or by chunks.
pub fn is_framed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Reads an answer whose head has come.
pub struct AnswerReader {
    target: Arc<Target>,
    response: ClientResponse,
    wire: Rc<Wire>,
    /// Bytes that were read and put back.
    next: Option<Bytes>,
    idle_timeout: Duration,
    last_read: Instant,
    /// `None` until the answer pauses.
    idle_timer: Option<Pin<Box<Sleep>>>,
}

impl AnswerReader {
    /// Wraps an answer that comes over `wire`. After its first bytes it may pause for `idle_timeout`.
    pub fn new(target: Arc<Target>, response: ClientResponse, wire: Rc<Wire>, idle_timeout: Duration) -> Self {
        Self { target, response, wire, next: None, idle_timeout, last_read: Instant::now(), idle_timer: None }
    }

    /// Returns the head of the answer.
    pub fn response(&self) -> &ClientResponse {
        &self.response
    }

    /// Returns why awc has misread the answer; `None` if it has not. A misread answer takes its connection out of use: awc keeps
    /// the connection although the rest of the answer is still to come, and would take that rest for the answer to another
    /// request.
    ///
    /// awc takes an interim answer (RFC 9110 section 15.2) for the final one. It takes a body in HTTP/1.1 for an empty one if the
    /// body has neither length nor chunks, and so may end with the connection (RFC 9112 section 6.3), or if the head has
    /// `upgrade: websocket`. An answer with both length and chunks is an error (RFC 9112 section 6.1), which Leaseway would frame
    /// wrongly for its client.
    pub fn misread(&self) -> Option<&'static str> {
        let (status, headers) = (self.response.status(), self.response.headers());
        let coding = headers.get(header::TRANSFER_ENCODING).map(|coding| coding.as_bytes().trim_ascii());
        let has_length = headers.contains_key(header::CONTENT_LENGTH);
        let upgrades = headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let reason = if status.is_informational() {
            "an interim answer, which is not supported"
        } else if coding.is_some() && has_length {
            "the answer has both length and chunks"
        } else if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
            "the answer has a transfer coding that is not supported"
        } else if upgrades && coding.is_none() && !self.has_no_body() {
            "the answer changes the protocol"
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

    /// Tells whether the status rules out a body, whatever else the head says.
    pub fn has_no_body(&self) -> bool {
        matches!(self.response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Waits for the first bytes of the body without a time limit. Returns false if the body is empty.
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

    /// Reads the rest of the body. Returns `None` if it is longer than `limit` bytes; what was read is then put back.
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

    /// Puts bytes back, so that the next read returns them.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.next = Some(bytes);
    }

    /// Returns when the last bytes came.
    pub fn last_read(&self) -> Moment {
        clock::moment(self.last_read)
    }

    /// Notes that bytes have come. Only the bytes of a good answer show that the endpoint is well.
    fn heard(&mut self) {
        self.last_read = Instant::now();
        if self.response.status().as_u16() < 400 {
            self.target.hear(clock::moment(self.last_read));
        }
    }

    /// Returns the length of the body that the head announces, in bytes.
    pub fn announced_length(&self) -> Option<u64> {
        self.response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
    }

    /// Checks the connection after the answer has ended by its length or its last chunk.
    pub fn settle(&self) {
        let headers = self.response.headers();
        let length = self.announced_length();
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if !self.has_no_body() {
            self.wire.settle(length);
        } else if is_chunked || length.is_some_and(|length| length > 0) {
            // The head announces a body that was not read.
            self.wire.retire();
        } else {
            self.wire.settle(Some(0));
        }
    }

    /// Reads the next bytes of the body. Must not be called again after an end.
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

    /// Returns what a broken connection means: the end of a body that has neither length nor chunks, a cut of every other body.
    fn broken(&self, error: awc::error::PayloadError) -> Read {
        if is_framed(self.response.headers()) {
            Read::Broken(Failure::ConnectionLost(error.to_string()))
        } else {
            Read::End(End::Uncertain)
        }
    }

    /// Waits until nothing has been read for the idle time. The timer is moved only when it fires, not at every read.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let first_deadline = self.last_read + self.idle_timeout;
        let timer = self.idle_timer.get_or_insert_with(|| Box::pin(sleep_until(first_deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let deadline = self.last_read + self.idle_timeout;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
