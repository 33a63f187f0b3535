//! Reads request bodies.

use std::rc::Rc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Services;
use super::error::ApiError;
use super::pace::may_wait;
use super::progress::Progress;
use crate::clock;

/// The largest body that the management API takes, in bytes.
const JSON_MAX: usize = 1024 * 1024;

/// How long a body of the management API may pause.
const JSON_PATIENCE: Duration = Duration::from_secs(10);

/// Reads a whole body. A body that comes in a single piece is not copied. The bytes count against the room for bodies until
/// the last slice of them is dropped.
///
/// # Errors
/// If the body is longer than `limit` bytes, does not fit into the room, is cut off, or comes too slowly: nothing for
/// `patience`, or fewer bytes than [`may_wait`] demands.
pub async fn read(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let room = &request.app_data::<web::Data<Services>>().expect("set for every worker").room;
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(ApiError::RequestTooLarge { limit });
    }
    let started = clock::now();
    let mut taken = room.take(announced.unwrap_or(0)).ok_or(ApiError::NoRoom)?;
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    loop {
        let received = first.len() + joined.len();
        let wait = may_wait(received, clock::now().since(started), patience);
        let Ok(next) = timeout(wait, payload.next()).await else { return Err(ApiError::TooSlow { received }) };
        let Some(piece) = next else { break };
        let piece = piece.map_err(|error| ApiError::invalid(format!("the request body broke off: {error}")))?;
        let received = received + piece.len();
        if received > limit {
            return Err(ApiError::RequestTooLarge { limit });
        }
        if received > taken.bytes() && !taken.grow(received - taken.bytes()) {
            return Err(ApiError::NoRoom);
        }
        if joined.is_empty() && first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(announced.unwrap_or(received));
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&piece);
    }
    request.conn_data::<Rc<Progress>>().expect("set for every connection").end_body();
    Ok(taken.hold(if joined.is_empty() { first } else { joined.freeze() }))
}

/// Reads a JSON body.
///
/// # Errors
/// If the body is longer than [`JSON_MAX`], cut off, not a JSON object, or not of the form of `T`; the error then names the
/// wrong field.
pub async fn read_json<T: DeserializeOwned>(request: &HttpRequest, payload: web::Payload) -> Result<T, ApiError> {
    let bytes = read(request, payload, JSON_MAX, JSON_PATIENCE).await?;
    // Rejects arrays, which serde would otherwise accept in place of an object.
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
