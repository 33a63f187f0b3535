//! Every error that Leaseway itself answers with: its status, its code and its words, in the form OpenAI SDKs read.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::actors::registry::RegistryError;
use crate::domain::ids::ModelId;
use crate::domain::request::{Failure, Refusal};

/// Why a request was not answered as asked.
#[derive(Debug)]
pub enum ApiError {
    /// The request makes no sense; `param` is the field to blame, if there is one.
    InvalidRequest {
        message: String,
        param: Option<String>,
    },
    RequestTooLarge {
        limit: usize,
    },
    Refused {
        refusal: Refusal,
        model: ModelId,
        retry_after: RetryAfter,
    },
    /// The endpoint of this name failed, and no other was tried after it.
    AttemptFailed(String, Failure),
    /// The endpoint answered, but not with a stream, when a stream had begun for the client.
    NotAStream {
        endpoint: String,
        status: StatusCode,
    },
    Registry(RegistryError),
    /// A model is asked for by name that no online endpoint serves.
    UnknownModel(String),
    /// No endpoint has this id.
    UnknownEndpoint(String),
    UnknownPath(String),
    MethodNotAllowed {
        method: String,
        path: String,
    },
    /// A page of another site is behind the request.
    CrossSite {
        origin: String,
    },
    /// Why no answer can be given for now.
    NotReady(&'static str),
}

/// When to come again, in seconds, 1 to 60.
#[derive(Clone, Copy, Debug)]
pub struct RetryAfter {
    /// After a full or overloaded line, where there is no estimate of the wait.
    pub queue_full: u64,
    /// After finding no endpoint online, or only loading ones.
    pub no_endpoint: u64,
}

/// When to come again after Leaseway was found stopping, in seconds.
const RETRY_AFTER_DRAINING: u64 = 5;

impl ApiError {
    pub fn invalid(message: impl Into<String>) -> Self {
        ApiError::InvalidRequest { message: message.into(), param: None }
    }

    fn code(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::InvalidRequest { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            ApiError::RequestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            ApiError::Refused { refusal, .. } => {
                let status = match refusal {
                    Refusal::ModelNotFound => StatusCode::NOT_FOUND,
                    Refusal::QueueFull { .. } | Refusal::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
                    Refusal::NothingUntried { .. } => StatusCode::BAD_GATEWAY,
                    Refusal::NoEndpointOnline | Refusal::WarmingUp | Refusal::Draining => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    Refusal::QueueTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
                };
                (status, refusal.code())
            }
            ApiError::AttemptFailed(_, Failure::FirstByteTimeout) => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
            ApiError::AttemptFailed(..) | ApiError::NotAStream { .. } => (StatusCode::BAD_GATEWAY, "upstream_error"),
            ApiError::Registry(error) => match error {
                RegistryError::NotFound(_) => (StatusCode::NOT_FOUND, "endpoint_not_found"),
                RegistryError::NameTaken(_) | RegistryError::AddressTaken { .. } => {
                    (StatusCode::CONFLICT, "endpoint_exists")
                }
                RegistryError::ManagedByFile(_) => (StatusCode::CONFLICT, "managed_by_file"),
                RegistryError::BeingChanged(_) => (StatusCode::CONFLICT, "being_changed"),
                RegistryError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
            },
            ApiError::UnknownModel(_) => (StatusCode::NOT_FOUND, "model_not_found"),
            ApiError::UnknownEndpoint(_) => (StatusCode::NOT_FOUND, "endpoint_not_found"),
            ApiError::UnknownPath(_) => (StatusCode::NOT_FOUND, "not_found"),
            ApiError::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            ApiError::CrossSite { .. } => (StatusCode::FORBIDDEN, "cross_site_request"),
            ApiError::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ApiError::InvalidRequest { param, .. } => param.as_deref(),
            ApiError::UnknownModel(_) | ApiError::Refused { refusal: Refusal::ModelNotFound, .. } => Some("model"),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            ApiError::Refused { refusal, retry_after, .. } => match refusal {
                Refusal::QueueFull { estimated_wait } | Refusal::Overloaded { estimated_wait } => {
                    Some(estimated_wait.map_or(retry_after.queue_full, |wait| wait.as_secs().clamp(1, 60)))
                }
                Refusal::NoEndpointOnline | Refusal::WarmingUp => Some(retry_after.no_endpoint),
                Refusal::Draining => Some(RETRY_AFTER_DRAINING),
                Refusal::ModelNotFound | Refusal::NothingUntried { .. } | Refusal::QueueTimeout { .. } => None,
            },
            _ => None,
        }
    }

    /// Returns the error as an event of a stream that has begun.
    pub fn event(&self) -> Bytes {
        format!("data: {}\n\n", self.body()).into()
    }

    fn body(&self) -> Value {
        let (status, code) = self.code();
        let kind = match status.as_u16() {
            429 => "rate_limit_exceeded",
            504 => "timeout",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let details = self.details();
        let mut error = json!({ "message": self.to_string(), "type": kind, "param": self.param(), "code": code });
        let mut body = json!({});
        for place in [&mut error, &mut body] {
            if let Value::Object(fields) = place {
                fields.extend(details.clone());
            }
        }
        body["error"] = error;
        body
    }

    /// Returns fields of the body beyond the four that every error has.
    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        match self {
            ApiError::Refused { refusal: Refusal::QueueFull { .. } | Refusal::Overloaded { .. }, .. } => {
                details.insert("retry_after".to_owned(), self.retry_after().into());
            }
            ApiError::Refused { refusal: Refusal::QueueTimeout { waited }, .. } => {
                details.insert("waited_secs".to_owned(), waited.as_secs_f64().into());
            }
            _ => {}
        }
        details
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::InvalidRequest { message, .. } => f.write_str(message),
            ApiError::RequestTooLarge { limit } => write!(f, "the request body is larger than {limit} bytes"),
            ApiError::Refused { refusal, model, .. } => match refusal {
                Refusal::ModelNotFound => write!(f, "no endpoint has the model `{model}`"),
                Refusal::NoEndpointOnline => write!(f, "no endpoint with the model `{model}` is online"),
                Refusal::WarmingUp => write!(f, "every endpoint with the model `{model}` is still loading"),
                Refusal::QueueFull { .. } | Refusal::Overloaded { .. } => f.write_str("Request queue is full"),
                Refusal::QueueTimeout { .. } => f.write_str("Queue wait timeout"),
                Refusal::NothingUntried { .. } => write!(f, "no endpoint with the model `{model}` answered"),
                Refusal::Draining => f.write_str("Leaseway is stopping"),
            },
            ApiError::AttemptFailed(endpoint, Failure::FirstByteTimeout) => {
                write!(f, "endpoint `{endpoint}` sent no byte of its answer in time")
            }
            ApiError::AttemptFailed(endpoint, Failure::Status(status)) => {
                write!(f, "endpoint `{endpoint}` answered {status} and broke off")
            }
            ApiError::AttemptFailed(endpoint, _) => write!(f, "endpoint `{endpoint}` did not answer"),
            ApiError::NotAStream { endpoint, status } => {
                write!(f, "endpoint `{endpoint}` answered {} and no stream", status.as_u16())
            }
            ApiError::Registry(error) => error.fmt(f),
            ApiError::UnknownModel(model) => write!(f, "no online endpoint has the model `{model}`"),
            ApiError::UnknownEndpoint(id) => write!(f, "there is no endpoint with id `{id}`"),
            ApiError::UnknownPath(path) => write!(f, "there is nothing at {path}"),
            ApiError::MethodNotAllowed { method, path } => write!(f, "{method} is not allowed at {path}"),
            ApiError::CrossSite { origin } => write!(f, "pages of {origin} may not do this"),
            ApiError::NotReady(reason) => f.write_str(reason),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code().0
    }

    fn error_response(&self) -> HttpResponse {
        let body = self.body();
        let mut response = HttpResponseBuilder::new(self.status_code());
        if let Some(seconds) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if matches!(self, ApiError::AttemptFailed(_, Failure::FirstByteTimeout)) {
            let name = HeaderName::from_static("x-should-retry");
            response.insert_header((name, HeaderValue::from_static("false")));
        }
        if matches!(self, ApiError::Refused { refusal: Refusal::Draining, .. }) {
            response.force_close();
        }
        response.json(body)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        ApiError::Registry(error)
    }
}
