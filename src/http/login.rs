//! Sessions of the dashboard: who shows a key once gets a cookie that stands for the key.
//!
//! A cookie has the id of its key and its end, signed with a secret that the database keeps. It is worth no more than its
//! key is at the moment of a request.

use std::time::Duration;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use ring::hmac;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::auth;
use super::{HttpReply, Services, body};
use crate::clock;
use crate::domain::ids::KeyId;

/// The name of the cookie.
const COOKIE: &str = "leaseway_session";

/// How long a session lasts.
const LASTS: Duration = Duration::from_secs(12 * 3600);

/// The bytes of a key's id, of the end in seconds since 1970, and of the signature (HMAC-SHA-256).
const LENGTHS: [usize; 3] = [16, 8, 32];

/// The key by which cookies are signed.
pub struct Signer(hmac::Key);

impl Signer {
    /// Creates a signer from a secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Returns the value of a cookie for a key.
    fn sign(&self, id: KeyId, end: DateTime<Utc>) -> String {
        let mut bytes = id.0.as_bytes().to_vec();
        bytes.extend(end.timestamp().to_be_bytes());
        let signature = hmac::sign(&self.0, &bytes);
        bytes.extend(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Returns the key that a cookie stands for; `None` if it was not signed here, or its session is over at `wall`.
    fn verify(&self, value: &[u8], wall: DateTime<Utc>) -> Option<KeyId> {
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let [id, end, signature] = LENGTHS;
        if bytes.len() != id + end + signature {
            return None;
        }
        let (signed, signature) = bytes.split_at(id + end);
        hmac::verify(&self.0, signed, signature).ok()?;
        let (id, end) = signed.split_at(id);
        let is_over = i64::from_be_bytes(end.try_into().ok()?) <= wall.timestamp();
        if is_over { None } else { Some(KeyId(Uuid::from_slice(id).ok()?)) }
    }

    /// Returns the key that a request's cookie stands for.
    pub fn key_of(&self, headers: &HeaderMap, wall: DateTime<Utc>) -> Option<KeyId> {
        let cookies = headers.get_all("cookie").flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let value = cookies.map(<[u8]>::trim_ascii).find_map(|cookie| cookie.strip_prefix(b"leaseway_session="))?;
        self.verify(value, wall)
    }
}

/// The body that begins a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginBody {
    key: String,
}

/// Answers whether keys are required, and what the request's key may be used for.
pub async fn read(services: web::Data<Services>, request: HttpRequest) -> HttpReply {
    let principal = auth::principal(&request);
    let scopes = principal.as_ref().map(|principal| principal.scopes());
    let name = principal.as_ref().map(|principal| principal.name.to_string());
    let is_required = services.keys.load().is_required();
    Ok(HttpResponse::Ok().json(json!({ "keys_required": is_required, "name": name, "scopes": scopes })))
}

/// Begins a session for a key.
pub async fn begin(services: web::Data<Services>, request: HttpRequest, payload: web::Payload) -> HttpReply {
    let LoginBody { key } = body::read_json(&request, payload).await?;
    let wall = clock::wall();
    let principal = services.keys.load().find(key.as_bytes(), wall).cloned();
    let Some(principal) = principal else {
        return Err(auth::refuse(request.peer_addr(), &services));
    };
    principal.note_use(wall);
    let end = wall + LASTS;
    let cookie = cookie(services.signer.sign(principal.id, end), services.has_tls, LASTS);
    Ok(HttpResponse::Ok().cookie(cookie).json(json!({ "expires_at": end, "scopes": principal.scopes() })))
}

/// Ends the session in the browser.
pub async fn end(services: web::Data<Services>) -> HttpReply {
    let cookie = cookie(String::new(), services.has_tls, Duration::ZERO);
    Ok(HttpResponse::NoContent().cookie(cookie).finish())
}

fn cookie(value: String, has_tls: bool, lasts: Duration) -> Cookie<'static> {
    let seconds = i64::try_from(lasts.as_secs()).unwrap_or_default();
    Cookie::build(COOKIE, value)
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(has_tls)
        .path("/")
        .max_age(actix_web::cookie::time::Duration::seconds(seconds))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_valid_until_its_end_and_only_if_it_was_signed_here() {
        let at = |second: i64| DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time");
        let id = KeyId(Uuid::from_u128(7));
        let signer = Signer::new(b"secret");
        let value = signer.sign(id, at(10));
        assert_eq!(signer.verify(value.as_bytes(), at(9)), Some(id));
        assert_eq!(signer.verify(value.as_bytes(), at(10)), None, "it is over");
        assert_eq!(Signer::new(b"another").verify(value.as_bytes(), at(9)), None);
        let bytes = URL_SAFE_NO_PAD.decode(&value).expect("base64");
        for place in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[place] ^= 1;
            assert_eq!(signer.verify(URL_SAFE_NO_PAD.encode(forged).as_bytes(), at(9)), None, "byte {place}");
        }
        for wrong in ["", "x", &value[1..], "ä"] {
            assert_eq!(signer.verify(wrong.as_bytes(), at(9)), None, "{wrong}");
        }
    }
}
