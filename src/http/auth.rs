//! Checks the key of a request against the scope of its route.
//!
//! Each route of the table names its [`Access`]. A request may send its key in any of several headers, because clients
//! differ; the first of them that is a valid key counts.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::{HttpMessage, HttpRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};

use super::Services;
use super::error::ApiError;
use crate::actors::keyring::KeyRefused;
use crate::clock;
use crate::domain::ids::ModelId;
use crate::domain::keys::{KeyTable, Principal, Scope};

/// The longest text that is taken for a key, in bytes.
const SECRET_MAX: usize = 512;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Those whose key has this scope.
    Needs(Scope),
}

/// Checks that a request may use a route, and keeps its key for the handler.
///
/// # Errors
/// If keys are required, and the request has no valid key or its key lacks the scope.
pub fn admit(access: Access, request: &ServiceRequest, services: &Services) -> Result<(), ApiError> {
    let Access::Needs(scope) = access else { return Ok(()) };
    let table = services.keys.load();
    if !table.is_required() {
        return Ok(());
    }
    let (wall, headers) = (clock::wall(), request.headers());
    let Some(principal) = identify(&table, headers, services, wall) else {
        let has_tried = secrets(headers).next().is_some();
        return Err(if has_tried { refuse(request.peer_addr(), services) } else { ApiError::InvalidKey });
    };
    if !principal.may(scope) {
        return Err(ApiError::InsufficientScope(scope));
    }
    principal.note_use(wall);
    request.extensions_mut().insert(principal);
    Ok(())
}

/// Tells whether a request with these headers may still use what needs `scope`, for an answer that lasts.
pub fn may_still(scope: Scope, headers: &HeaderMap, services: &Services) -> bool {
    let table = services.keys.load();
    let may = || identify(&table, headers, services, clock::wall()).is_some_and(|principal| principal.may(scope));
    !table.is_required() || may()
}

/// Counts a key that is not valid, and returns the error.
pub fn refuse(peer: Option<SocketAddr>, services: &Services) -> ApiError {
    services.keyring.do_send(KeyRefused(peer.map(|peer| peer.ip())));
    ApiError::InvalidKey
}

/// Returns the key of a request; `None` if none is required.
pub fn principal(request: &HttpRequest) -> Option<Arc<Principal>> {
    request.extensions().get::<Arc<Principal>>().cloned()
}

/// Tells whether the key of a request may use a model.
pub fn may_use(request: &HttpRequest, model: &ModelId) -> bool {
    request.extensions().get::<Arc<Principal>>().is_none_or(|principal| principal.may_use(model))
}

/// Returns the first valid key that the headers have, or else the key of their session.
fn identify(table: &KeyTable, headers: &HeaderMap, services: &Services, wall: DateTime<Utc>) -> Option<Arc<Principal>> {
    let session = || table.with_id(services.signer.key_of(headers, wall)?, wall).cloned();
    find(table, headers, wall).or_else(session)
}

/// Returns the first valid key that the headers have.
fn find(table: &KeyTable, headers: &HeaderMap, wall: DateTime<Utc>) -> Option<Arc<Principal>> {
    secrets(headers).find_map(|secret| table.find(&secret, wall).cloned())
}

/// Returns everything in the headers that may be a key: bearer token, `x-api-key`, `api-key`, password of Basic.
fn secrets(headers: &HeaderMap) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let values = |name: HeaderName| headers.get_all(name).map(|value| value.as_bytes());
    let authorization = |scheme: &'static [u8]| {
        values(header::AUTHORIZATION).filter_map(move |value| {
            let (given, rest) = value.split_at_checked(scheme.len())?;
            given.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii())
        })
    };
    let named = ["x-api-key", "api-key"].into_iter().flat_map(move |name| values(HeaderName::from_static(name)));
    let plain = authorization(b"bearer ").chain(named).map(Cow::Borrowed);
    let passwords = authorization(b"basic ").filter_map(|text| {
        let decoded = STANDARD.decode(text).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        Some(Cow::Owned(decoded[colon + 1..].to_vec()))
    });
    plain.chain(passwords).filter(|secret| (1..=SECRET_MAX).contains(&secret.len()))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_key_is_taken_from_each_header_in_their_order() {
        let check = |headers: &[(&str, &str)], expected: &[&str]| {
            let mut request = TestRequest::default();
            for header in headers {
                request = request.append_header(*header);
            }
            let request = request.to_http_request();
            let found: Vec<_> = secrets(request.headers()).collect();
            let found: Vec<&str> = found.iter().map(|secret| std::str::from_utf8(secret).expect("a text")).collect();
            assert_eq!(found, expected, "{headers:?}");
        };
        let long = "k".repeat(SECRET_MAX + 1);
        check(&[], &[]);
        check(&[("authorization", "Bearer k")], &["k"]);
        check(&[("authorization", "bearer   k ")], &["k"]);
        check(&[("authorization", "Bearer")], &[]);
        check(&[("authorization", "Bearer ")], &[]);
        check(&[("authorization", "k")], &[]);
        check(&[("authorization", &format!("Bearer {long}"))], &[]);
        check(&[("x-api-key", "k")], &["k"]);
        check(&[("api-key", "k")], &["k"]);
        // "user:k", ":k:k", "user" and something that is not base64.
        check(&[("authorization", "Basic dXNlcjpr")], &["k"]);
        check(&[("authorization", "Basic Oms6aw==")], &["k:k"]);
        check(&[("authorization", "Basic dXNlcg==")], &[]);
        check(&[("authorization", "Basic ?")], &[]);
        let all =
            [("api-key", "3"), ("authorization", "Basic OjQ="), ("x-api-key", "2"), ("authorization", "Bearer 1")];
        check(&all, &["1", "2", "3", "4"]);
    }
}
