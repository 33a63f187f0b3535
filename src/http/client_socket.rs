//! The TCP connection of a client. It cuts off a client that stops reading.
//!
//! A timer inside the body could not do this, since a body is polled only while its client reads. The kernel's
//! `TCP_USER_TIMEOUT` does not help either: it goes on counting while a slow client reads, as long as the window that the
//! client opens is smaller than the next segment. A timer above TLS could not either: it would take the bytes that wait in
//! the buffer of TLS for bytes that the client has taken.

use std::io::{self, IoSlice};
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

/// The number of unsent bytes up to which the kernel takes more. A small number makes the kernel take bytes again soon after
/// the client reads, so that reading shows soon.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 16 * 1024;

/// The most that is added to the idle time. A client's kernel shows late that the client reads: only when a good part of its
/// receive buffer is free, which has 128 KiB at first on Linux.
const UNSEEN_MAX: Duration = Duration::from_secs(5);

/// A client's TCP connection, cut off when the client takes nothing for too long.
pub struct ClientSocket {
    tcp: TcpStream,
    /// How long the kernel may refuse bytes until the client is cut off.
    patience: Duration,
    /// Runs while the client takes nothing and there is more to write.
    blocked: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl ClientSocket {
    /// Wraps a connection that has been accepted.
    pub fn new(tcp: TcpStream, config: &UpstreamConfig, places: &Arc<Places>) -> Self {
        if let Err(error) = set_options(&tcp, config) {
            log::debug!("client socket options not set error=\"{error}\"");
        }
        let patience = config.idle_timeout + (config.idle_timeout / 2).min(UNSEEN_MAX);
        Self { tcp, patience, blocked: None, _place: places.take() }
    }

    /// Returns the connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Tells whether there are bytes that the client has not taken yet.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Returns the outcome of a write, or an error once the client has taken nothing for `patience`.
    fn watch(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let patience = self.patience;
        let timer = self.blocked.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        log::debug!("client cut off: it took nothing for {} s", patience.as_secs());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
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

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.watch(written, cx)
    }

    /// TLS writes all records that it holds at once.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
