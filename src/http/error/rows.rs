//! What a client sees of an error, and the rows of errors that other parts of Leaseway report.

use std::time::Duration;

use actix_web::http::StatusCode;
use serde_json::{Map, Value};

use super::RetryAfter;
use crate::actors::keyring::KeyError;
use crate::actors::registry::RegistryError;
use crate::dialect::ErrorParts;
use crate::domain::dispatch::RateStatus;
use crate::domain::ids::ModelId;
use crate::domain::keys::KeyringError;
use crate::domain::request::{Failure, Refusal};

/// When to come again after a refusal because Leaseway is stopping, in seconds.
pub const RETRY_AFTER_DRAINING: u64 = 5;

/// When to come again after a refusal because there is no room for the body, in seconds.
pub const RETRY_AFTER_NO_ROOM: u64 = 5;

/// When to come again if a part of Leaseway, or the database, cannot answer, in seconds.
pub const RETRY_AFTER_NOT_READY: u64 = 5;

/// Everything that a client sees of one error.
pub struct Row {
    /// The status of the answer.
    pub status: StatusCode,
    /// The name of the error.
    pub code: &'static str,
    /// The words for people.
    pub message: String,
    /// The field of the request that is wrong; `None` if no single field is.
    pub param: Option<String>,
    /// The value of the header `Retry-After`, in seconds, at least 1; `None` for no such header. Only the limits of a key set
    /// more than 60.
    pub retry_after: Option<u64>,
    /// True if the SDKs of OpenAI are told not to send the request again, which they would do for this status.
    pub is_final: bool,
    /// The value of the header `Allow`; `None` for no such header.
    pub allow: Option<String>,
    /// True if the answer says how a key is sent.
    pub challenge: bool,
    /// True if the connection is closed after the answer.
    pub closes: bool,
    /// Fields of the body beside those that every error has.
    pub details: Map<String, Value>,
    /// How much is left of the limits of the client's key; `None` if that is not known or no limit can be exceeded.
    pub rate: Option<RateStatus>,
}

impl Row {
    /// Returns a row with no more than these.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            is_final: false,
            allow: None,
            challenge: false,
            closes: false,
            details: Map::new(),
            rate: None,
        }
    }

    /// Names the field of the request that is wrong.
    pub fn param(self, param: Option<&str>) -> Self {
        Self { param: param.map(str::to_owned), ..self }
    }

    /// Says when to come again, in seconds.
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Adds a field to the body.
    pub fn detail(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.details.insert(field.to_owned(), value.into());
        self
    }

    /// Tells how much is left of the limits of the client's key.
    pub fn rate(self, rate: &RateStatus) -> Self {
        Self { rate: Some(*rate), ..self }
    }

    /// Returns what a dialect renders.
    pub fn parts(&self) -> ErrorParts<'_> {
        let (status, param) = (self.status.as_u16(), self.param.as_deref());
        ErrorParts { status, code: self.code, message: &self.message, param, details: &self.details }
    }
}

/// Returns the row of a request that got no lease.
pub fn refused(refusal: &Refusal, model: &ModelId, retry_after: RetryAfter) -> Row {
    let row = |status, message: String| Row::new(status, refusal.code(), message);
    match refusal {
        Refusal::ModelNotFound => {
            row(StatusCode::NOT_FOUND, format!("no endpoint has the model `{model}`")).param(Some("model"))
        }
        Refusal::NoEndpointOnline => {
            row(StatusCode::SERVICE_UNAVAILABLE, format!("no endpoint with the model `{model}` is online"))
                .retry_after(retry_after.no_endpoint)
        }
        Refusal::WarmingUp => {
            row(StatusCode::SERVICE_UNAVAILABLE, format!("every endpoint with the model `{model}` is still loading"))
                .retry_after(retry_after.no_endpoint)
        }
        Refusal::QueueFull { estimated_wait } | Refusal::Overloaded { estimated_wait } => {
            too_many(refusal.code(), "Request queue is full".to_owned(), *estimated_wait, retry_after)
        }
        Refusal::KeyQueueFull { max_waiting, estimated_wait } => {
            let message = format!("as many requests of this key wait as its max_waiting allows: {max_waiting}");
            too_many(refusal.code(), message, *estimated_wait, retry_after)
        }
        Refusal::RateLimitExceeded { limit, value, retry_after, status } => {
            let message = format!("the limit `{}` of this key is reached: {value}", limit.as_str());
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            let row = row(StatusCode::TOO_MANY_REQUESTS, message).retry_after(seconds.max(1));
            row.detail("retry_after", seconds.max(1)).rate(status)
        }
        Refusal::QueueTimeout { waited } => row(StatusCode::GATEWAY_TIMEOUT, "Queue wait timeout".to_owned())
            .detail("waited_secs", waited.as_secs_f64()),
        Refusal::NothingUntried { .. } => {
            row(StatusCode::BAD_GATEWAY, format!("no endpoint with the model `{model}` answered"))
        }
        Refusal::ApiNotSupported(api_kind) => {
            let message = format!("no endpoint with the model `{model}` serves {}", api_kind.path());
            Row { is_final: true, ..row(StatusCode::NOT_IMPLEMENTED, message) }
        }
        Refusal::Draining => Row {
            closes: true,
            ..row(StatusCode::SERVICE_UNAVAILABLE, "Leaseway is stopping".to_owned()).retry_after(RETRY_AFTER_DRAINING)
        },
    }
}

/// Returns the error of a client that may come again once there is less to do.
pub fn too_many(code: &'static str, message: String, estimated_wait: Option<Duration>, retry_after: RetryAfter) -> Row {
    let seconds = estimated_wait.map_or(retry_after.queue_full, |wait| wait.as_secs().clamp(1, 60));
    Row::new(StatusCode::TOO_MANY_REQUESTS, code, message).retry_after(seconds).detail("retry_after", seconds)
}

/// Returns the row of a request whose only attempt failed.
pub fn attempt_failed(endpoint: &str, failure: &Failure) -> Row {
    let failed = |message: String| Row::new(StatusCode::BAD_GATEWAY, "upstream_error", message);
    match failure {
        Failure::FirstByteTimeout => {
            let message = format!("endpoint `{endpoint}` sent no byte of its answer in time");
            Row { is_final: true, ..Row::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message) }
        }
        Failure::Status(status) => failed(format!("endpoint `{endpoint}` answered {status} and broke off")),
        Failure::Unreachable(_)
        | Failure::ConnectionLost(_)
        | Failure::RequestCutOff
        | Failure::IdleTimeout
        | Failure::ShutDown => failed(format!("endpoint `{endpoint}` did not answer")),
    }
}

/// Returns the row of a database that cannot be used.
pub fn unavailable(message: String) -> Row {
    Row::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", message).retry_after(RETRY_AFTER_NOT_READY)
}

/// Returns the row of a change of endpoints that was not made.
pub fn registry(error: &RegistryError) -> Row {
    let row = |status, code| Row::new(status, code, error.to_string());
    match error {
        RegistryError::NotFound(_) => row(StatusCode::NOT_FOUND, "endpoint_not_found"),
        RegistryError::NameTaken(_) | RegistryError::AddressTaken { .. } => {
            row(StatusCode::CONFLICT, "endpoint_exists")
        }
        RegistryError::ManagedByFile(_) => row(StatusCode::CONFLICT, "managed_by_file"),
        RegistryError::BeingChanged(_) => row(StatusCode::CONFLICT, "being_changed"),
        RegistryError::Store(_) => unavailable(error.to_string()),
    }
}

/// Returns the row of a change of keys that was not made.
pub fn key(error: &KeyError) -> Row {
    let row = |status, code| Row::new(status, code, error.to_string());
    match error {
        KeyError::Rule(KeyringError::NotFound(_)) => row(StatusCode::NOT_FOUND, "key_not_found"),
        KeyError::Rule(KeyringError::NameTaken(_)) => row(StatusCode::CONFLICT, "key_exists"),
        KeyError::Rule(KeyringError::ManagedByFile(_)) => row(StatusCode::CONFLICT, "managed_by_file"),
        KeyError::Rule(KeyringError::ManagedByEnvironment(_)) => row(StatusCode::CONFLICT, "managed_by_environment"),
        KeyError::Rule(KeyringError::LastAdmin(_)) => row(StatusCode::CONFLICT, "last_admin"),
        KeyError::Store(_) => unavailable(error.to_string()),
    }
}

/// Returns the row of a request without a valid key.
pub fn invalid_key() -> Row {
    let message = "a valid key is required, as `Authorization: Bearer KEY`";
    Row { challenge: true, ..Row::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message) }
}

/// Returns the row of an id that no endpoint or key has; `what` is `endpoint` or `key`.
pub fn unknown(what: &str, id: &str) -> Row {
    let code = if what == "key" { "key_not_found" } else { "endpoint_not_found" };
    Row::new(StatusCode::NOT_FOUND, code, format!("there is no {what} with id `{id}`"))
}
