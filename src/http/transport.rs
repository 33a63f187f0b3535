//! What carries the HTTP of a connection: TCP, or TLS over TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_socket::ClientSocket;
use super::error::ApiError;
use super::pace::may_wait;

/// The most bytes of answers that TLS holds for one client that does not take them. More wait in actix's own buffer.
const UNSENT_MAX: usize = 16 * 1024;

/// The most that is read of a plain request to a port of HTTPS.
const PLAIN_MAX: usize = 16 * 1024;

/// What carries HTTP.
pub enum Transport {
    /// TCP.
    Plain(ClientSocket),
    /// TLS over TCP.
    Tls(Box<TlsStream<ClientSocket>>),
}

impl Transport {
    /// Begins TLS. The handshake may take as long as a head of which nothing comes. A client that speaks plain HTTP is told so.
    ///
    /// # Errors
    /// If the client does not begin TLS, or not in time.
    pub async fn tls(socket: ClientSocket, config: Arc<ServerConfig>, pause_max: Duration) -> io::Result<Self> {
        let handshake = async {
            let mut first = [0];
            socket.tcp().peek(&mut first).await?;
            // TLS begins with the byte 22, HTTP with the name of a method.
            if first[0].is_ascii_uppercase() {
                return Err(refuse_plain(socket).await);
            }
            let limit = |session: &mut rustls::ServerConnection| session.set_buffer_limit(Some(UNSENT_MAX));
            let stream = TlsAcceptor::from(config).accept_with(socket, limit).await?;
            Ok(Transport::Tls(Box::new(stream)))
        };
        let shaken = timeout(may_wait(0, Duration::ZERO, pause_max), handshake).await;
        shaken.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not begin TLS in time")))
    }

    /// Tells whether there are bytes that the client has not taken yet.
    pub fn is_blocked(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_blocked(),
            Transport::Tls(stream) => stream.get_ref().0.is_blocked(),
        }
    }
}

/// Answers a plain request. What has come of it is read before, because a connection that is closed with bytes unread can take
/// the answer from the client.
async fn refuse_plain(mut socket: ClientSocket) -> io::Error {
    let told = match socket.tcp().try_read(&mut [0; PLAIN_MAX]) {
        Ok(_) => socket.write_all(&ApiError::HttpsRequired.to_bytes()).await,
        Err(error) => Err(error),
    };
    told.err().unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the client speaks HTTP, not HTTPS"))
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
