//! The connection below awc's HTTP: a TCP stream that reports every end as an error.
//!
//! awc takes the end of a connection for the end of the body, so that a cut answer would pass as complete. Turned into
//! an error, a cut is seen as one; a body that is allowed to end with its connection is told apart by its head.
//!
//! It also tells when a kept connection turned out to be stale: the endpoint had closed it before it got the request.

use std::error::Error;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Connects to endpoints.
#[derive(Clone)]
pub struct EndpointConnector {
    tcp: ConnectorService,
    keepalive: Duration,
    is_tls: bool,
}

impl EndpointConnector {
    /// Creates a connector whose connections send TCP keep-alive probes every `keepalive`.
    pub fn new(keepalive: Duration, is_tls: bool) -> Self {
        Self { tcp: ConnectorService::default(), keepalive, is_tls }
    }
}

impl Service<ConnectInfo<Uri>> for EndpointConnector {
    type Response = Connection<Uri, EndpointStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let connecting = self.tcp.call(info);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        let is_tls = self.is_tls;
        Box::pin(async move {
            let (stream, uri) = connecting.await?.into_parts();
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Io)?;
            Ok(Connection::new(uri, EndpointStream { tcp: stream, is_tls, phase: Phase::New }))
        })
    }
}

/// What goes wrong on a connection that was kept too long.
#[derive(Debug)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed by the endpoint before the request came")
    }
}

impl Error for Stale {}

/// Tells whether an error was caused by a stale connection.
pub fn is_stale(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stale>())
}

/// Where a connection is in its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been read yet.
    New,
    /// The last thing that happened was a read.
    Answered,
    /// Written again after an answer, and nothing read since.
    Reused,
}

/// A TCP stream whose end is the error `UnexpectedEof`.
#[derive(Debug)]
pub struct EndpointStream {
    tcp: TcpStream,
    is_tls: bool,
    phase: Phase,
}

impl EndpointStream {
    /// Takes note of a write. The first one after an answer finds out whether the endpoint has closed the connection, or sent
    /// what nobody asked for and would pass as the next answer; below TLS such bytes may be TLS's own.
    fn writes(&mut self) -> io::Result<()> {
        if self.phase != Phase::Answered {
            return Ok(());
        }
        self.phase = Phase::Reused;
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.tcp).peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(1..) if self.is_tls => Ok(()),
            Ok(_) | Err(_) => Err(self.judge(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Marks an error of a connection that had been kept.
    fn judge(&self, error: io::Error) -> io::Error {
        match self.phase {
            Phase::New | Phase::Answered => error,
            Phase::Reused => io::Error::new(error.kind(), Stale),
        }
    }
}

impl AsyncRead for EndpointStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let wanted = buf.remaining() > 0;
        match ready!(Pin::new(&mut self.tcp).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => self.phase = Phase::Answered,
            Ok(()) if !wanted => {}
            Ok(()) => {
                let end = io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the endpoint");
                return Poll::Ready(Err(self.judge(end)));
            }
            Err(error) => return Poll::Ready(Err(self.judge(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes()?;
        Pin::new(&mut self.tcp).poll_write(cx, buf).map_err(|error| self.judge(error))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes()?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs).map_err(|error| self.judge(error))
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

impl actix_web::rt::net::ActixStream for EndpointStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_read_ready(&self.tcp, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_write_ready(&self.tcp, cx)
    }
}
