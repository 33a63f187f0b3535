//! Reads request bodies.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::ApiError;

/// The largest body that the management API takes, in bytes.
const JSON_MAX: usize = 1024 * 1024;

/// How long such a body may pause.
const JSON_PATIENCE: Duration = Duration::from_secs(10);

/// Reads a body whole. One that came in a single piece is not copied.
///
/// # Errors
/// If it is longer than `limit` bytes, cut off, or pauses for longer than `patience`.
pub async fn read(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::RequestTooLarge { limit };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(piece) = next_piece(&mut payload, patience).await? {
        let piece = piece.map_err(|error| ApiError::invalid(format!("the request body broke off: {error}")))?;
        if first.len() + joined.len() + piece.len() > limit {
            return Err(too_large());
        }
        if joined.is_empty() && first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(announced.unwrap_or(first.len() + piece.len()));
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&piece);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

async fn next_piece(
    payload: &mut web::Payload,
    patience: Duration,
) -> Result<Option<Result<Bytes, PayloadError>>, ApiError> {
    let late = || ApiError::invalid(format!("the request body stopped coming for {} s", patience.as_secs()));
    timeout(patience, payload.next()).await.map_err(|_| late())
}

/// Reads a JSON body.
///
/// # Errors
/// If it is too long, cut off, not JSON, or not of the form of `T`; then the field is named.
pub async fn read_json<T: DeserializeOwned>(request: &HttpRequest, payload: web::Payload) -> Result<T, ApiError> {
    let bytes = read(request, payload, JSON_MAX, JSON_PATIENCE).await?;
    // Else a list would do for an object, value by value.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::invalid("the request body is not a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." {
            ApiError::invalid(format!("the request body is wrong: {reason}"))
        } else {
            ApiError::InvalidRequest { message: format!("`{path}` is wrong: {reason}"), param: Some(path) }
        }
    })
}
