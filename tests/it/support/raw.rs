//! A client that sends raw bytes and leaves when the test wants.

use std::net::SocketAddr;

use memchr::memmem;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Trust;
use super::soon;

/// What carries a connection: TCP or TLS.
trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// One connection. Dropping it closes it, as a client that leaves does.
pub struct RawClient(Box<dyn Transport>);

impl RawClient {
    /// Connects and sends a text unchanged.
    pub async fn send(address: SocketAddr, text: &str) -> Self {
        Self::send_bytes(address, text.as_bytes()).await
    }

    /// Connects and sends bytes unchanged.
    pub async fn send_bytes(address: SocketAddr, bytes: &[u8]) -> Self {
        Self::connect(address, bytes).await.expect("a connection")
    }

    async fn connect(address: SocketAddr, bytes: &[u8]) -> Option<Self> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).expect("an option");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        Some(Self(Box::new(stream)))
    }

    /// Connects over TLS and sends a text unchanged.
    pub async fn send_over_tls(address: SocketAddr, trust: &Trust, text: &str) -> Self {
        let mut stream = trust.connect(address).await.expect("a TLS connection");
        stream.write_all(text.as_bytes()).await.expect("sent");
        Self(Box::new(stream))
    }

    /// Posts a JSON body over TLS.
    pub async fn post_over_tls(address: SocketAddr, trust: &Trust, path: &str, body: &Value) -> Self {
        Self::send_over_tls(address, trust, &post_of(path, "", body)).await
    }

    /// Connects and posts a JSON body.
    pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Self {
        Self::post_with(address, path, "", body).await
    }

    /// Connects and posts a JSON body with further header lines, each ending in `\r\n`.
    pub async fn post_with(address: SocketAddr, path: &str, headers: &str, body: &Value) -> Self {
        Self::try_post(address, path, headers, body).await.expect("a connection")
    }

    /// Connects and posts as [`RawClient::post_with`] does; `None` if nobody listens.
    pub async fn try_post(address: SocketAddr, path: &str, headers: &str, body: &Value) -> Option<Self> {
        Self::connect(address, post_of(path, headers, body).as_bytes()).await
    }

    /// Reads until the bytes received contain `part`, and returns all of them.
    pub async fn read_until(&mut self, part: &str) -> String {
        let (mut read, mut searched) = (Vec::new(), 0);
        let reading = async {
            while memmem::find(&read[searched..], part.as_bytes()).is_none() {
                searched = read.len().saturating_sub(part.len());
                let count = self.0.read_buf(&mut read).await.expect("readable");
                assert!(count > 0, "closed after: {}", String::from_utf8_lossy(&read));
            }
        };
        soon(part, reading).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Says that nothing more will be sent, as far as the transport can say so.
    pub async fn end(&mut self) {
        soon("the end to be sent", self.0.shutdown()).await.expect("a connection");
    }

    /// Sends more.
    pub async fn write(&mut self, bytes: &[u8]) {
        soon("the bytes to be taken", self.0.write_all(bytes)).await.expect("a connection");
    }

    /// Reads so many bytes; false if the server closed before.
    pub async fn read_exactly(&mut self, count: usize) -> bool {
        let mut read = vec![0; count];
        soon("bytes", self.0.read_exact(&mut read)).await.is_ok()
    }

    /// Reads until the server closes, and returns what came, as text.
    pub async fn read_to_end(&mut self) -> String {
        String::from_utf8_lossy(&self.read_bytes_to_end().await).into_owned()
    }

    /// Reads until the server closes, and returns what came.
    pub async fn read_bytes_to_end(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        let reading = async { while self.0.read_buf(&mut read).await.is_ok_and(|count| count > 0) {} };
        soon("the end of the connection", reading).await;
        read
    }
}

fn post_of(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n{headers}");
    format!("{head}content-length: {length}\r\n\r\n{body}")
}
