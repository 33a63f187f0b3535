//! The socket below awc's HTTP: a TCP stream that reports every end as an error and checks requests and answers.
//!
//! awc takes the end of a connection for the end of the body, so that a cut answer would pass as complete. An error makes the
//! cut visible; the head of an answer tells whether its body may end with the connection. [`Wire`] holds the state of the
//! checks.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use socket2::{SockRef, TcpKeepalive};

use super::wire::{Peer, Wire};

/// Makes connections to endpoints.
#[derive(Clone)]
pub struct EndpointConnector {
    tcp: ConnectorService,
    keepalive: Duration,
    is_tls: bool,
    peer: Rc<Peer>,
}

impl EndpointConnector {
    /// Creates a connector whose connections send TCP keep-alive probes every `keepalive` and belong to `peer`.
    pub fn new(keepalive: Duration, is_tls: bool, peer: Rc<Peer>) -> Self {
        Self { tcp: ConnectorService::default(), keepalive, is_tls, peer }
    }
}

impl Service<ConnectInfo<Uri>> for EndpointConnector {
    type Response = Connection<Uri, EndpointSocket>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let connecting = self.tcp.call(info);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        let (is_tls, peer) = (self.is_tls, self.peer.clone());
        Box::pin(async move {
            let (stream, uri) = connecting.await?.into_parts();
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Io)?;
            Ok(Connection::new(uri, EndpointSocket(Rc::new(Wire::new(stream, is_tls, peer)))))
        })
    }
}

/// A TCP stream that reports its end as the error `UnexpectedEof`.
#[derive(Debug)]
pub struct EndpointSocket(Rc<Wire>);

impl AsyncRead for EndpointSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &self.0;
        if wire.must_be_dropped() {
            // The empty read looks like the end of an idle connection, which makes awc drop it.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let wanted = buf.remaining() > 0;
        let result = ready!(Pin::new(&mut *wire.tcp.borrow_mut()).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if result.is_err() || (read.is_empty() && wanted) {
            wire.has_closed();
        }
        result?;
        if read.is_empty() && wanted {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the endpoint")));
        }
        wire.has_read(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EndpointSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.check_before_write()?;
        let written = ready!(Pin::new(&mut *self.0.tcp.borrow_mut()).poll_write(cx, buf));
        Poll::Ready(self.0.has_written(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.check_before_write()?;
        let written = ready!(Pin::new(&mut *self.0.tcp.borrow_mut()).poll_write_vectored(cx, bufs));
        Poll::Ready(self.0.has_written(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.tcp.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.tcp.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.tcp.borrow_mut()).poll_shutdown(cx)
    }
}

impl actix_web::rt::net::ActixStream for EndpointSocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_read_ready(&*self.0.tcp.borrow(), cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<tokio::io::Ready>> {
        actix_web::rt::net::ActixStream::poll_write_ready(&*self.0.tcp.borrow(), cx)
    }
}
