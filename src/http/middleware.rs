//! What holds for every request: its id, and how long a header may be.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, ResponseError};
use uuid::Uuid;

use super::error::ApiError;
use crate::domain::ids::RequestId;

/// The longest header field that is taken, in bytes.
const HEADER_MAX: usize = 16 * 1024;

/// The longest request id that is taken from a client, in bytes.
const REQUEST_ID_MAX: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives every answer an `x-request-id`, the client's own if it sent a sane one; refuses headers that are too long, and what
/// pages of other sites make a browser send to the management API.
///
/// # Errors
/// Those of the handlers.
pub async fn frame<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<actix_web::body::EitherBody<B>>, Error> {
    let id = request_id(request.headers());
    let refused = too_long(request.headers()).or_else(|| cross_site(&request));
    request.extensions_mut().insert(RequestId::from(id.to_str().unwrap_or_default()));
    let mut response = match refused {
        Some(error) => request.into_response(error.error_response()).map_into_right_body(),
        None => next.call(request).await?.map_into_left_body(),
    };
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
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

/// Refuses what a page of another site makes a browser ask for: to change something, or to listen.
fn cross_site(request: &ServiceRequest) -> Option<ApiError> {
    let changes = request.path().starts_with("/api/") && !request.method().is_safe();
    if !changes && !request.path().starts_with("/ws/") {
        return None;
    }
    let origin = request.headers().get(header::ORIGIN)?.to_str().unwrap_or_default();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let same = origin.split_once("://").is_some_and(|(_, origin_host)| origin_host == host);
    (!same).then(|| ApiError::CrossSite { origin: origin.to_owned() })
}
