//! Reads request bodies.

use std::rc::Rc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Services;
use super::error::ApiError;
use super::pace::may_wait;
use super::progress::Progress;
use super::room::Taken;
use crate::clock;

/// The largest body that the management API takes, in bytes.
const JSON_MAX: usize = 1024 * 1024;

/// How long a body of the management API may pause.
const JSON_PATIENCE: Duration = Duration::from_secs(10);

/// Reads a whole body. A body that comes in a single piece is not copied. The body takes room as it comes, and gives it back
/// when the last slice of its bytes is dropped.
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
    let taken = room.admit(announced.unwrap_or(0)).ok_or(ApiError::NoRoom)?;
    let mut body = Body { taken, longest: announced.unwrap_or(limit), first: Bytes::new(), joined: Vec::new() };
    loop {
        let received = body.received();
        let wait = may_wait(received, clock::now().since(started), patience);
        let Ok(next) = timeout(wait, payload.next()).await else { return Err(ApiError::TooSlow { received }) };
        let Some(piece) = next else { break };
        let piece = piece.map_err(|error| ApiError::invalid(format!("the request body broke off: {error}")))?;
        if received + piece.len() > limit {
            return Err(ApiError::RequestTooLarge { limit });
        }
        body.push(piece)?;
    }
    request.conn_data::<Rc<Progress>>().expect("set for every connection").end_body();
    Ok(body.whole())
}

/// The part of a body that has come.
struct Body {
    taken: Taken,
    /// The length that the body can have, in bytes.
    longest: usize,
    /// The first piece, while it is the only one.
    first: Bytes,
    /// All pieces, once there are two. Its capacity is what is taken.
    joined: Vec<u8>,
}

impl Body {
    fn received(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    /// Adds a piece. Memory for more bytes than have come is taken in large steps, so that bytes are seldom copied, but at
    /// most for four times as many, so that a body that is announced and does not come takes no room.
    fn push(&mut self, piece: Bytes) -> Result<(), ApiError> {
        let (needed, capacity) = (self.received() + piece.len(), self.taken.bytes());
        let is_first = self.received() == 0;
        if needed > capacity {
            // If there is no room for a large step, there may be room for a small one.
            let steps = if is_first { [0, 0] } else { [capacity * 3, capacity / 16] };
            let mut sizes = steps.map(|step| needed.max((capacity + step).min(self.longest))).into_iter();
            if !sizes.any(|size| self.taken.grow(size - capacity)) {
                return Err(ApiError::NoRoom);
            }
        }
        if is_first {
            self.first = piece;
            return Ok(());
        }
        self.joined.reserve_exact(self.taken.bytes() - self.joined.len());
        self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        self.joined.extend_from_slice(&piece);
        Ok(())
    }

    fn whole(self) -> Bytes {
        self.taken.hold(if self.joined.is_empty() { self.first } else { self.joined.into() })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::room::Room;

    #[test]
    fn a_body_takes_room_as_it_comes_and_is_copied_seldom() {
        let room = Room::new(1000);
        let body = |longest: usize| {
            let taken = room.admit(0).expect("there is room");
            Body { taken, longest, first: Bytes::new(), joined: Vec::new() }
        };
        let piece = |length: usize| Bytes::from(vec![b'x'; length]);
        let check = |body: &mut Body, length: usize, taken: Option<usize>| {
            let pushed = body.push(piece(length)).ok().map(|()| body.taken.bytes());
            assert_eq!(pushed, taken);
            assert!(body.joined.capacity() <= body.taken.bytes());
        };
        let mut known = body(500);
        check(&mut known, 100, Some(100));
        check(&mut known, 1, Some(400));
        check(&mut known, 299, Some(400));
        check(&mut known, 1, Some(500));
        check(&mut known, 99, Some(500));
        assert_eq!(known.received(), 500);
        // The rest of the room allows small steps only.
        let mut unknown = body(1000);
        check(&mut unknown, 320, Some(320));
        check(&mut unknown, 1, Some(340));
        check(&mut unknown, 160, Some(481));
        check(&mut unknown, 20, None);
        drop(known);
        check(&mut unknown, 20, Some(1000));
        assert_eq!(unknown.whole().len(), 501);
        assert!(room.admit(1000).is_some());
    }
}
