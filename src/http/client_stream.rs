//! The connection of a client below actix's HTTP. It cuts off a client that stops reading, sends the head of a request too
//! slowly, or goes on with a request that has been answered.
//!
//! A timer inside the body could not do this, since a body is polled only while its client reads. The kernel's
//! `TCP_USER_TIMEOUT` does not help either: it goes on counting while a slow client reads, as long as the window that the
//! client opens is smaller than the next segment.

use std::io;
use std::mem::discriminant;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_web::rt::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};
use tokio::time::{Sleep, sleep};

use super::error::ApiError;
use super::pace::may_wait;
use super::places::{Place, Places};
use super::progress::{Phase, Progress};
use crate::clock;
use crate::config::UpstreamConfig;
use crate::domain::time::Moment;

/// The number of unsent bytes up to which the kernel takes more. A small number makes the kernel take bytes again soon after
/// the client reads, so that reading shows soon.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 16 * 1024;

/// The most that is added to the idle time. A client's kernel shows late that the client reads: only when a good part of its
/// receive buffer is free, which has 128 KiB at first on Linux.
const UNSEEN_MAX: Duration = Duration::from_secs(5);

/// How long a client may go on sending a request that has been answered. The client gets this time to read the answer.
const UNREAD_MAX: Duration = Duration::from_secs(2);

/// A client's connection, cut off when the client keeps Leaseway waiting for too long.
pub struct ClientStream {
    tcp: TcpStream,
    progress: Rc<Progress>,
    /// The time until which the client must go on; `None` if Leaseway does not wait for the client.
    limit: Option<Limit>,
    /// How long the client may pause while it sends a head.
    pause_max: Duration,
    /// How long the kernel may refuse bytes until the client is cut off.
    patience: Duration,
    /// Runs while the client takes nothing and there is more to write.
    blocked: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

/// The end of Leaseway's patience with a client in one phase of its connection.
struct Limit {
    phase: Phase,
    /// When this kind of phase began.
    started: Moment,
    timer: Pin<Box<Sleep>>,
}

impl ClientStream {
    /// Wraps a connection that has been accepted.
    pub fn new(tcp: TcpStream, config: &UpstreamConfig, places: &Arc<Places>) -> Self {
        if let Err(error) = set_options(&tcp, config) {
            log::debug!("client socket options not set error=\"{error}\"");
        }
        let patience = config.idle_timeout + (config.idle_timeout / 2).min(UNSEEN_MAX);
        let (progress, pause_max) = (Progress::new(), config.idle_timeout);
        Self { tcp, progress, limit: None, pause_max, patience, blocked: None, _place: places.take() }
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
    fn cut_off(&self) -> io::Error {
        if let Phase::Head { received } = self.progress.phase()
            && self.blocked.is_none()
            && let Err(error) = self.tcp.try_write(&ApiError::TooSlow { received }.to_bytes())
        {
            log::debug!("client not told that it is too slow error=\"{error}\"");
        }
        io::Error::new(io::ErrorKind::TimedOut, "the client sends its request too slowly")
    }

    /// Becomes ready, with an error, once the client has taken nothing for `patience`.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let patience = self.patience;
        let timer = self.blocked.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        log::debug!("client cut off: it took nothing for {} s", patience.as_secs());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn is_same_kind(a: Phase, b: Phase) -> bool {
    discriminant(&a) == discriminant(&b)
}

/// Makes the kernel send small pieces at once, and detect a machine that has gone without closing the connection.
fn set_options(tcp: &TcpStream, config: &UpstreamConfig) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let probes = config.idle_timeout.as_secs().div_ceil(config.tcp_keepalive.as_secs().max(1));
    let keepalive = TcpKeepalive::new()
        .with_time(config.tcp_keepalive)
        .with_interval(config.tcp_keepalive)
        .with_retries(u32::try_from(probes).unwrap_or(u32::MAX).clamp(1, 100));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
    Ok(())
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_late(cx) {
            return Poll::Ready(Err(self.cut_off()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.progress.receive(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.tcp).poll_write(cx, buf) {
            Poll::Pending => this.poll_blocked(cx),
            written => {
                this.blocked = None;
                written
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit(cx);
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
