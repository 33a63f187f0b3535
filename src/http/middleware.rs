//! What is done for every request: give it an id, refuse headers that are too long, normalize its path, and note when it is
//! answered.

use std::rc::Rc;

use actix_http::ConnectionType;
use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{StatusCode, Uri};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, ResponseError};
use uuid::Uuid;

use super::error::ApiError;
use super::progress::{Progress, ServedBody};
use crate::domain::ids::RequestId;

/// The longest header field that is taken, in bytes.
const HEADER_MAX: usize = 16 * 1024;

/// The longest request id that is taken from a client, in bytes.
const REQUEST_ID_MAX: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives every answer an `x-request-id` (the client's own if it is short and printable), refuses headers that are too long,
/// and removes superfluous slashes from the path. An answer that does not wait for the end of its request's body closes the
/// connection.
///
/// # Errors
/// The errors of the handlers.
pub async fn frame(mut request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<ServedBody>, Error> {
    let has_body = !matches!(request.parts().1, Payload::None);
    let serving = request.conn_data::<Rc<Progress>>().expect("set for every connection").serve(has_body);
    let id = request_id(request.headers());
    let refused = too_long(request.headers());
    normalize(&mut request);
    request.extensions_mut().insert(RequestId::from(id.to_str().unwrap_or_default()));
    let mut response = match refused {
        Some(error) => request.into_response(error.error_response()),
        None => next.call(request).await?,
    };
    response.headers_mut().insert(REQUEST_ID, id);
    if serving.is_unread() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| serving.until_sent(body)))
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(sane) {
        Some(value) => value.clone(),
        None => {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(text).expect("a UUID is a header value")
        }
    }
}

fn too_long(headers: &HeaderMap) -> Option<ApiError> {
    let (name, value) = headers.iter().find(|(_, value)| value.len() > HEADER_MAX)?;
    let message = format!("header `{name}` has {} bytes; allowed are {HEADER_MAX}", value.len());
    Some(ApiError::invalid(message))
}

/// Joins slashes that stand in a row and cuts off a slash at the end, so that such a path finds its route.
fn normalize(request: &mut ServiceRequest) {
    let Some(path) = normalized(request.path()) else { return };
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    // A path that does not parse is left as it is; it then matches no route.
    let Ok(target) = target.parse::<PathAndQuery>() else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target);
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// Returns the path without superfluous slashes; `None` if there are none.
fn normalized(path: &str) -> Option<String> {
    let ends = path.len() > 1 && path.ends_with('/');
    if !ends && memchr::memmem::find(path.as_bytes(), b"//").is_none() {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superfluous_slashes_go() {
        let check = |path: &str, expected: Option<&str>| assert_eq!(normalized(path).as_deref(), expected, "{path}");
        check("/", None);
        check("/v1/models/org/name", None);
        check("//", Some("/"));
        check("/v1/models/", Some("/v1/models"));
        check("//v1///chat/completions//", Some("/v1/chat/completions"));
        check("/a%2F/b", None);
        check("*", None);
    }
}
