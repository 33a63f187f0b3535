//! The body of an answer on its way to the client: relays the answer, measures it, and carries the lease.
//!
//! Each read yields one piece. The last piece is held until the endpoint has ended its answer, so that the slot is free
//! before the client can know that the answer is complete. Dropping the body abandons the lease and closes the connection.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::{StatusCode, header};
use bytes::Bytes;
use serde_json::Map;
use tokio::time::{Sleep, sleep};

use super::answer::{AnswerReader, End, Read};
use super::json_meter::JsonMeter;
use super::stream_meter::StreamMeter;
use crate::dialect::{Dialect, ErrorParts};
use crate::domain::ids::ModelId;
use crate::domain::request::{Failure, Outcome};
use crate::lease::Lease;

/// How long the last piece of an answer is held while the endpoint does not end the answer.
const LAST_PIECE_WAIT: Duration = Duration::from_millis(100);

/// The time between an error event and the cut of the connection. The cut discards unsent bytes, so that the event needs this
/// time to reach the socket.
const CUT_DELAY: Duration = Duration::from_millis(50);

/// The body of an answer, which owns the lease of its request.
pub struct LeasedBody {
    /// `None` once the lease has ended.
    lease: Option<Lease>,
    dialect: Dialect,
    /// The model that the client asked for.
    asked: ModelId,
    status: StatusCode,
    answer: AnswerReader,
    meter: Meter,
    size: BodySize,
    received: u64,
    state: State,
}

/// Measures the answer by its form.
enum Meter {
    Stream(StreamMeter),
    Json(JsonMeter),
}

/// How far the body has come.
enum State {
    /// Pieces are read and passed on.
    Relaying,
    /// The last piece is held until the answer ends or the timer fires, which runs once the end is waited for.
    Ending { last: Bytes, timer: Option<Pin<Box<Sleep>>> },
    /// The answer broke off; the connection is cut when the timer fires.
    Cutting { timer: Pin<Box<Sleep>> },
    /// Nothing is left to send.
    Done,
}

/// The error that makes actix cut the connection to the client.
#[derive(Debug)]
pub struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the endpoint's answer broke off")
    }
}

impl std::error::Error for CutOff {}

impl LeasedBody {
    /// Wraps an answer whose first bytes have come. With `hide_usage` the client does not see the usage that Leaseway asked for.
    pub fn new(lease: Lease, dialect: Dialect, asked: ModelId, answer: AnswerReader, hide_usage: bool) -> Self {
        let headers = answer.response().headers();
        let content_type = headers.get(header::CONTENT_TYPE);
        let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let (meter, size) = if is_stream {
            (Meter::Stream(StreamMeter::new(dialect, hide_usage)), BodySize::Stream)
        } else {
            (Meter::Json(JsonMeter::new(dialect)), answer.announced_length().map_or(BodySize::Stream, BodySize::Sized))
        };
        let status = answer.response().status();
        Self { lease: Some(lease), dialect, asked, status, answer, meter, size, received: 0, state: State::Relaying }
    }

    /// Wraps an answer without a body. Its lease ends at once, since actix never polls an empty body.
    pub fn empty(lease: Lease, dialect: Dialect, asked: ModelId, answer: AnswerReader) -> Self {
        let mut body = Self::new(lease, dialect, asked, answer, false);
        body.succeed();
        body.size = match body.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => BodySize::None,
            _ => BodySize::Sized(0),
        };
        body.state = State::Done;
        body
    }

    /// Ends the lease of an answer that came whole. An answer with status 400 or above counts as failed although it is whole.
    fn succeed(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        if self.status.as_u16() >= 400 {
            return lease.end(Outcome::Failed(Failure::Status(self.status.as_u16())));
        }
        let (tokens, other_model) = match &mut self.meter {
            Meter::Stream(meter) => (meter.tokens(), meter.other_model(&self.asked)),
            Meter::Json(meter) => {
                let other_model = meter.other_model(&self.asked);
                (meter.tokens(), other_model)
            }
        };
        lease.see_other_model(other_model);
        lease.end(Outcome::Succeeded { tokens });
    }

    /// Ends the lease as failed. Returns the error event for the client if the answer is a stream.
    fn fail(&mut self, failure: Failure) -> Option<Bytes> {
        self.state = State::Cutting { timer: Box::pin(sleep(CUT_DELAY)) };
        let lease = self.lease.take()?;
        let endpoint = &lease.target().name;
        log::debug!("answer broke off endpoint={endpoint} error=\"{failure}\"");
        let message = format!("endpoint `{endpoint}` broke off its answer");
        let error =
            ErrorParts { status: 502, code: "upstream_error", message: &message, param: None, details: &Map::new() };
        let event = match self.meter {
            // The blank line ends an event that was cut in two.
            Meter::Stream(_) => Some([b"\n\n", &self.dialect.error_event(&error)[..]].concat().into()),
            Meter::Json(_) => None,
        };
        lease.end(Outcome::Failed(failure));
        event
    }

    /// Measures a piece and returns the bytes for the client; `None` if there are none, or if the piece must wait as the last.
    fn take(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.received += bytes.len() as u64;
        let (passed, done) = match &mut self.meter {
            Meter::Stream(meter) => {
                let passed = meter.pass(bytes);
                if meter.has_content()
                    && let Some(lease) = &mut self.lease
                {
                    lease.see_token(self.answer.last_read());
                }
                (passed, meter.done())
            }
            Meter::Json(meter) => {
                meter.observe(&bytes);
                (bytes, matches!(self.size, BodySize::Sized(length) if self.received >= length))
            }
        };
        if passed.is_empty() {
            return None;
        }
        if done && self.lease.is_some() {
            self.state = State::Ending { last: passed, timer: None };
            return None;
        }
        Some(passed)
    }

    /// Ends the answer and returns the bytes that were held back. A stream whose end is uncertain fails unless it has said that
    /// it is complete.
    fn finish(&mut self, end: End) -> Option<Bytes> {
        let rest = match &mut self.meter {
            Meter::Stream(meter) => {
                let rest = meter.finish();
                if end == End::Uncertain && !meter.complete() {
                    return self.fail(Failure::ConnectionLost("closed before the stream was complete".to_owned()));
                }
                rest
            }
            Meter::Json(_) => Bytes::new(),
        };
        self.succeed();
        self.state = State::Done;
        (!rest.is_empty()).then_some(rest)
    }
}

impl MessageBody for LeasedBody {
    type Error = CutOff;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        let this = self.get_mut();
        loop {
            let piece = match &mut this.state {
                State::Relaying => match ready!(this.answer.poll_read(cx)) {
                    Read::Bytes(bytes) => this.take(bytes),
                    Read::End(end) => this.finish(end),
                    Read::Broken(failure) => this.fail(failure),
                },
                State::Ending { last, timer } => {
                    let after = match this.answer.poll_read(cx) {
                        Poll::Ready(Read::Bytes(more)) => {
                            this.answer.put_back(more);
                            State::Relaying
                        }
                        Poll::Ready(Read::End(_) | Read::Broken(_)) => State::Done,
                        Poll::Pending => {
                            let timer = timer.get_or_insert_with(|| Box::pin(sleep(LAST_PIECE_WAIT)));
                            ready!(timer.as_mut().poll(cx));
                            State::Relaying
                        }
                    };
                    let last = std::mem::take(last);
                    this.state = after;
                    this.succeed();
                    Some(last)
                }
                State::Cutting { timer } => {
                    ready!(timer.as_mut().poll(cx));
                    this.state = State::Done;
                    return Poll::Ready(Some(Err(CutOff)));
                }
                State::Done => return Poll::Ready(None),
            };
            if let Some(bytes) = piece {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}
