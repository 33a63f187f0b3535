//! The connection of a client below actix's HTTP. It cuts off a client that sends the head of a request too slowly, or goes
//! on with a request that has been answered. What it counts are bytes of HTTP, under TLS, too.

use std::io;
use std::mem::discriminant;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::error::ApiError;
use super::pace::may_wait;
use super::progress::{Phase, Progress};
use super::transport::Transport;
use crate::clock;
use crate::domain::time::Moment;

/// How long a client may go on sending a request that has been answered. The client gets this time to read the answer.
const UNREAD_MAX: Duration = Duration::from_secs(2);

/// A client's connection, cut off when the client keeps Leaseway waiting for too long.
pub struct ClientStream {
    transport: Transport,
    progress: Rc<Progress>,
    /// The time until which the client must go on; `None` if Leaseway does not wait for the client.
    limit: Option<Limit>,
    /// How long the client may pause while it sends a head.
    pause_max: Duration,
}

/// The end of Leaseway's patience with a client in one phase of its connection.
struct Limit {
    phase: Phase,
    /// When this kind of phase began.
    started: Moment,
    timer: Pin<Box<Sleep>>,
}

impl ClientStream {
    /// Begins to serve a connection.
    pub fn new(transport: Transport, pause_max: Duration) -> Self {
        Self { transport, progress: Progress::new(), limit: None, pause_max }
    }

    /// Returns the progress of the connection, by which handlers and this stream tell each other what they see.
    pub fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    /// Sets the time until which the client must go on. actix flushes after it has parsed what has been read, so that a head
    /// that comes in one piece needs no timer.
    fn limit(&mut self, cx: &mut Context<'_>) {
        let phase = self.progress.phase();
        if self.limit.as_ref().is_some_and(|limit| limit.phase == phase) {
            return;
        }
        let known = self.limit.take().filter(|limit| is_same_kind(limit.phase, phase));
        let (started, wait) = match phase {
            Phase::Serving { .. } | Phase::Idle => return,
            Phase::Unread => (clock::now(), UNREAD_MAX),
            Phase::Head { received } => {
                let now = clock::now();
                let started = known.map_or(now, |limit| limit.started);
                (started, may_wait(received, now.since(started), self.pause_max))
            }
        };
        let mut timer = Box::pin(sleep(wait));
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.limit = Some(Limit { phase, started, timer });
    }

    /// Tells whether the client has kept Leaseway waiting for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let phase = self.progress.phase();
        let limit = self.limit.as_mut().filter(|limit| is_same_kind(limit.phase, phase));
        limit.is_some_and(|limit| limit.timer.as_mut().poll(cx).is_ready())
    }

    /// Tells a client that sends a head too slowly why it is cut off, unless the client has not taken the last answer yet.
    fn cut_off(&mut self, cx: &mut Context<'_>) -> io::Error {
        if let Phase::Head { received } = self.progress.phase()
            && !self.transport.is_blocked()
            && let Poll::Ready(Err(error)) =
                Pin::new(&mut self.transport).poll_write(cx, &ApiError::TooSlow { received }.to_bytes())
        {
            log::debug!("client not told that it is too slow error=\"{error}\"");
        }
        io::Error::new(io::ErrorKind::TimedOut, "the client sends its request too slowly")
    }
}

fn is_same_kind(a: Phase, b: Phase) -> bool {
    discriminant(&a) == discriminant(&b)
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_late(cx) {
            return Poll::Ready(Err(self.cut_off(cx)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        self.progress.receive(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit(cx);
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
