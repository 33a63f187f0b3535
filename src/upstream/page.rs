//! Reads one page of an endpoint with a `GET` that costs no tokens.

use std::io;
use std::time::Duration;

use actix_http::error::ParseError;
use actix_web::http::{StatusCode, header};
use awc::error::{ConnectError, SendRequestError};
use awc::{Client, ClientResponse};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::answer::is_framed;
use crate::domain::health::ProbeFailure;

/// The longest list of models that is read, in bytes.
pub const LIST_MAX: usize = 4 * 1024 * 1024;

/// The longest page that is read if it is not a list of models, in bytes.
pub const PAGE_MAX: usize = 1024 * 1024;

/// The longest reason of a failure that is kept, in characters. A server may answer with any amount of text.
const REASON_MAX: usize = 300;

/// Asks one server for its pages.
pub struct Asker {
    /// The HTTP client that sends the requests.
    pub client: Client,
    /// How long each page may take.
    pub timeout: Duration,
    /// The URL to which the path of a page is appended.
    pub root_url: String,
    /// The key sent as `Authorization: Bearer`; `None` if the server needs no key.
    pub api_key: Option<String>,
}

/// A page as the server sent it.
pub struct Page {
    /// The status of the answer.
    pub status: StatusCode,
    /// The header `server`; `None` if it is absent or not text.
    pub server: Option<String>,
    /// The whole body of the answer.
    pub body: Vec<u8>,
}

impl Page {
    /// Tells whether the page is the answer that llama.cpp gives while it loads its model.
    pub fn is_loading(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && memchr::memmem::find(&self.body.to_ascii_lowercase(), b"loading").is_some()
    }
}

impl Asker {
    /// Asks for a page of up to `max` bytes.
    ///
    /// # Errors
    /// If no answer comes in time, or if the answer is not HTTP or is too long.
    pub async fn get(&self, path: &str, max: usize) -> Result<Page, ProbeFailure> {
        // The page gets a connection of its own. A kept connection could be stale, which says nothing about the endpoint.
        let mut request = self.client.get(format!("{}{path}", self.root_url)).force_close();
        request.headers_mut().insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let fetch = async {
            let mut response = request.send().await.map_err(|error| no_page(&error))?;
            let body = read(&mut response, max).await?;
            let server = response.headers().get(header::SERVER).and_then(|value| value.to_str().ok());
            Ok(Page { status: response.status(), server: server.map(str::to_owned), body })
        };
        match timeout(self.timeout, fetch).await {
            Ok(page) => page,
            Err(_) => Err(ProbeFailure::Unreachable(format!("no answer within {} s", self.timeout.as_secs_f64()))),
        }
    }
}

/// Returns the failure of an answer that no inference server gives. A long reason is cut.
pub fn wrong(reason: impl Into<String>) -> ProbeFailure {
    let reason = reason.into();
    ProbeFailure::Wrong(match reason.char_indices().nth(REASON_MAX) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    })
}

/// Reads a body of up to `max` bytes. If the head does not say where the body ends, it ends with the connection.
async fn read(response: &mut ClientResponse, max: usize) -> Result<Vec<u8>, ProbeFailure> {
    let is_framed = is_framed(response.headers());
    let mut body = Vec::new();
    while let Some(read) = response.next().await {
        match read {
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(_) if !is_framed => break,
            Err(error) => return Err(ProbeFailure::Unreachable(error.to_string())),
        }
        if body.len() > max {
            return Err(wrong(format!("a page has more than {max} bytes")));
        }
    }
    Ok(body)
}

/// Returns why there is no page: the answer is not HTTP, no answer came, or the request could not be sent for want of a file
/// descriptor.
fn no_page(error: &SendRequestError) -> ProbeFailure {
    let io_error = match error {
        SendRequestError::Connect(ConnectError::Io(error)) => Some(error),
        SendRequestError::Connect(ConnectError::Resolver(error)) => error.downcast_ref::<io::Error>(),
        SendRequestError::Response(ParseError::Io(error)) => {
            return ProbeFailure::Unreachable(error.to_string());
        }
        SendRequestError::Response(error) => return wrong(format!("the answer is not HTTP: {error}")),
        _ => None,
    };
    match io_error {
        Some(error) if is_out_of_descriptors(error) => ProbeFailure::NotSent(error.to_string()),
        Some(_) | None => ProbeFailure::Unreachable(error.to_string()),
    }
}

/// Tells whether the process or the machine has no file descriptor left (EMFILE and ENFILE, errno(3)).
fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_descriptors_is_told_from_an_endpoint_that_refuses() {
        let check = |errno, expected: fn(&ProbeFailure) -> bool| {
            let error = || io::Error::from_raw_os_error(errno);
            let failures = [ConnectError::Io(error()), ConnectError::Resolver(Box::new(error()))];
            for failure in failures.map(|error| no_page(&SendRequestError::Connect(error))) {
                assert!(expected(&failure), "{errno}: {failure:?}");
            }
        };
        let ours = |failure: &ProbeFailure| matches!(failure, ProbeFailure::NotSent(_));
        let theirs = |failure: &ProbeFailure| matches!(failure, ProbeFailure::Unreachable(_));
        check(23, ours);
        check(24, ours);
        check(111, theirs);
    }

    #[test]
    fn a_reason_has_its_bound() {
        let ProbeFailure::Wrong(reason) = wrong("é".repeat(1000)) else { panic!("another failure") };
        assert_eq!(reason.chars().count(), REASON_MAX + 1);
    }
}
