//! The management of keys: list, make, change, revoke and rotate keys.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use uuid::Uuid;

use super::endpoints::{given, missing, wrong};
use super::error::ApiError;
use super::{HttpReply, Services, ask, body};
use crate::actors::keyring::{ChangeKey, ListKeys, MakeKey, ReadKey, RevokeKey, RotateKey};
use crate::domain::endpoint::check_models;
use crate::domain::ids::KeyId;
use crate::domain::keys::{GRACE_MAX_SECS, Key, KeyDefinition, LIMITS, Scope, allowed_limit, check_key_name};

/// The body that makes or changes a key. A field that is left out takes its default in a new key, and stays as it is in a
/// change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    name: Option<String>,
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    models: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Option<DateTime<Utc>>>,
    enabled: Option<bool>,
    trusts_client_header: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    requests_per_minute: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    tokens_per_minute: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    tokens_per_day: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_concurrency: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_waiting: Option<Option<Number>>,
}

/// A checked change of a key.
struct KeyChange {
    body: KeyBody,
    scopes: Option<Vec<Scope>>,
    /// The names and values of the limits that change.
    limits: Vec<(&'static str, Option<u64>)>,
}

impl KeyBody {
    fn check(self) -> Result<KeyChange, ApiError> {
        if let Some(name) = &self.name {
            check_key_name(name).map_err(|allowed| wrong("name", name, &allowed))?;
        }
        if let Some(Some(models)) = &self.models {
            check_models(models).map_err(|allowed| wrong("models", &format!("{} names", models.len()), &allowed))?;
        }
        let scope = |name: &String| {
            let names = Scope::ALL.map(Scope::as_str).join(", ");
            Scope::from_name(name).ok_or_else(|| wrong("scopes", name, &names))
        };
        let scopes = self.scopes.as_ref().map(|names| names.iter().map(scope).collect()).transpose()?;
        let numbers = [
            &self.requests_per_minute,
            &self.tokens_per_minute,
            &self.tokens_per_day,
            &self.max_concurrency,
            &self.max_waiting,
        ];
        let mut limits = Vec::new();
        for (name, number) in LIMITS.into_iter().zip(numbers) {
            let Some(number) = number else { continue };
            let range = allowed_limit(name);
            let read = |number: &Number| {
                let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
                let whole = number.as_u64().filter(|whole| range.contains(whole));
                whole.ok_or_else(|| wrong(name, &number.to_string(), &allowed()))
            };
            limits.push((name, number.as_ref().map(read).transpose()?));
        }
        Ok(KeyChange { body: self, scopes, limits })
    }
}

impl KeyChange {
    fn apply(self, to: &mut KeyDefinition) {
        let Self { body, scopes, limits } = self;
        for (name, limit) in limits {
            to.limits.by_name(name).into_iter().for_each(|place| *place = limit);
        }
        if let Some(name) = body.name {
            to.name = name;
        }
        if let Some(scopes) = scopes {
            to.scopes = scopes.into_iter().collect();
        }
        if let Some(models) = body.models {
            to.models = models.unwrap_or_default();
        }
        if let Some(expires_at) = body.expires_at {
            to.expires_at = expires_at;
        }
        to.enabled = body.enabled.unwrap_or(to.enabled);
        to.trusts_client_header = body.trusts_client_header.unwrap_or(to.trusts_client_header);
    }
}

/// A key with its secret, which is shown only once.
#[derive(Serialize)]
struct NewKey {
    key: String,
    #[serde(flatten)]
    view: Key,
}

/// Answers with every key, oldest first.
pub async fn list(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(ask(&services.keyring, ListKeys).await?))
}

/// Answers with one key.
pub async fn read(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    Ok(HttpResponse::Ok().json(ask(&services.keyring, ReadKey(key_id(&id)?)).await??))
}

/// Makes a key; answers with its secret once the key is saved.
pub async fn make(services: web::Data<Services>, request: HttpRequest, payload: web::Payload) -> HttpReply {
    let change = body::read_json::<KeyBody>(&request, payload).await?.check()?;
    let name = change.body.name.clone().ok_or_else(|| missing("name"))?;
    let mut definition = KeyDefinition::new(name);
    change.apply(&mut definition);
    let (view, key) = ask(&services.keyring, MakeKey(definition)).await??;
    Ok(HttpResponse::Created().json(NewKey { key, view }))
}

/// Changes a key; answers once the change is saved.
pub async fn change(
    services: web::Data<Services>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpReply {
    let id = key_id(&id)?;
    let change = body::read_json::<KeyBody>(&request, payload).await?.check()?;
    let change = ChangeKey { id, change: Box::new(move |definition| change.apply(definition)) };
    Ok(HttpResponse::Ok().json(ask(&services.keyring, change).await??))
}

/// Removes a key; answers once it is refused.
pub async fn revoke(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    ask(&services.keyring, RevokeKey(key_id(&id)?)).await??;
    Ok(HttpResponse::NoContent().finish())
}

/// The body that exchanges the secret of a key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationBody {
    /// How long the secret before stays valid.
    #[serde(default)]
    grace_secs: u64,
}

/// Exchanges the secret of a key; answers with the new secret once it is saved.
pub async fn rotate(
    services: web::Data<Services>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpReply {
    let id = key_id(&id)?;
    let RotationBody { grace_secs } = body::read_json(&request, payload).await?;
    if grace_secs > GRACE_MAX_SECS {
        let allowed = format!("a whole number from 0 to {GRACE_MAX_SECS}");
        return Err(wrong("grace_secs", &grace_secs.to_string(), &allowed));
    }
    let rotate = RotateKey { id, grace: Duration::from_secs(grace_secs) };
    let (view, key) = ask(&services.keyring, rotate).await??;
    Ok(HttpResponse::Ok().json(NewKey { key, view }))
}

/// Reads a key's id from a path.
///
/// # Errors
/// If the text is not a UUID, so that no key can have it as id.
pub fn key_id(text: &str) -> Result<KeyId, ApiError> {
    Uuid::parse_str(text).map(KeyId).map_err(|_| ApiError::UnknownKey(text.to_owned()))
}
