//! The connection below awc's HTTP: a TCP stream that reports every end as an error.
//!
//! awc takes the end of a connection for the end of the body, so that a cut answer would pass as complete. Turned into
//! an error, a cut is seen as one; a body that is allowed to end with its connection is told apart by its head.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
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
}

impl EndpointConnector {
    /// Creates a connector whose connections send TCP keep-alive probes every `keepalive`.
    pub fn new(keepalive: Duration) -> Self {
        Self { tcp: ConnectorService::default(), keepalive }
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
        Box::pin(async move {
            let (stream, uri) = connecting.await?.into_parts();
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Io)?;
            Ok(Connection::new(uri, EndpointStream(stream)))
        })
    }
}

/// A TCP stream whose end is the error `UnexpectedEof`.
#[derive(Debug)]
pub struct EndpointStream(TcpStream);

impl AsyncRead for EndpointStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let wanted = buf.remaining() > 0;
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read
            && wanted
            && buf.filled().len() == before
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the endpoint")));
        }
        read
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl actix_web::rt::net::ActixStream for EndpointStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_read_ready(&self.0, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_write_ready(&self.0, cx)
    }
}
