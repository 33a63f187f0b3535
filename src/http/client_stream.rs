//! The connection of a client below actix's HTTP: one that cuts off a client that takes nothing any more.
//!
//! A body is polled only while its client reads, so that no timer inside the body could do this. The kernel's
//! `TCP_USER_TIMEOUT` is no help: it goes on counting while a slow client reads, as long as the window that the client opens
//! is smaller than the next segment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_web::rt::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};
use tokio::time::{Sleep, sleep};

use super::places::{Place, Places};
use crate::config::UpstreamConfig;

/// Bytes not yet sent up to which the kernel takes more. It keeps what a client has not taken small, so that the room that
/// comes free shows soon that the client reads.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 16 * 1024;

/// The most that is added to the idle time, because a client's kernel shows late that its client reads: only when a good part
/// of its receive buffer is free, on Linux 128 KiB at first.
const UNSEEN_MAX: Duration = Duration::from_secs(5);

/// A client's connection.
pub struct ClientStream {
    tcp: TcpStream,
    /// How long nothing may be taken, as far as can be seen from here.
    patience: Duration,
    /// Runs while the client takes nothing and there is more to write.
    blocked: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl ClientStream {
    /// Wraps a connection that has been accepted.
    pub fn new(tcp: TcpStream, config: &UpstreamConfig, places: &Arc<Places>) -> Self {
        if let Err(error) = set_options(&tcp, config) {
            log::debug!("client socket options not set error={error}");
        }
        let patience = config.idle_timeout + (config.idle_timeout / 2).min(UNSEEN_MAX);
        Self { tcp, patience, blocked: None, _place: places.take() }
    }

    /// Waits until the client has taken nothing for too long.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let patience = self.patience;
        let timer = self.blocked.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        log::debug!("client cut off: it took nothing for {} s", patience.as_secs());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Sends small pieces at once, and finds out when the other machine has gone without a word.
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
        Pin::new(&mut self.tcp).poll_read(cx, buf)
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
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
