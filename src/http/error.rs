//! Every error that Leaseway itself answers with: one row each, in [`ApiError::row`].

mod rows;

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use bytes::Bytes;
use uuid::Uuid;

use self::rows::{RETRY_AFTER_NO_ROOM, RETRY_AFTER_NOT_READY, Row};
use super::rate_headers;
use crate::actors::keyring::KeyError;
use crate::actors::registry::RegistryError;
use crate::dialect::Dialect;
use crate::domain::dispatch::RateStatus;
use crate::domain::ids::ModelId;
use crate::domain::keys::Scope;
use crate::domain::request::{Failure, Refusal};
use crate::store::StoreError;

/// Why Leaseway answers a request with an error of its own.
#[derive(Debug)]
pub enum ApiError {
    /// The request makes no sense.
    InvalidRequest {
        /// What is wrong.
        message: String,
        /// The field that is wrong; `None` if no single field is.
        param: Option<String>,
    },
    /// The body of the request is too long.
    RequestTooLarge {
        /// The longest body that is allowed, in bytes.
        limit: usize,
    },
    /// The request got no lease.
    Refused {
        /// Why there is no lease.
        refusal: Refusal,
        /// The model that was asked for.
        model: ModelId,
        /// When the client may come again.
        retry_after: RetryAfter,
    },
    /// Every endpoint that was tried has too much to do.
    AllBusy {
        /// How long a new request would wait; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
        /// The model that was asked for.
        model: ModelId,
        /// When the client may come again.
        retry_after: RetryAfter,
    },
    /// The request of a key with limits got no answer.
    OfKey {
        /// Why there is no answer.
        error: Box<ApiError>,
        /// How much is left of the limits of the key.
        rate: Box<RateStatus>,
    },
    /// The endpoint of this name failed, and no other endpoint was tried after it.
    AttemptFailed(String, Failure),
    /// The endpoint answered without a stream after the stream to the client had begun.
    NotAStream {
        /// The name of the endpoint.
        endpoint: String,
        /// The endpoint's status.
        status: StatusCode,
    },
    /// The registry refused to change or find an endpoint.
    Registry(RegistryError),
    /// No online endpoint has the model of this name.
    UnknownModel(String),
    /// No endpoint has this id.
    UnknownEndpoint(String),
    /// Nothing is at this path.
    UnknownPath(String),
    /// The path does not have this method.
    MethodNotAllowed {
        /// The method of the request.
        method: String,
        /// The path of the request.
        path: String,
        /// The methods that the path has, as `Allow` lists them.
        allow: String,
    },
    /// Keys are required, and the request has no valid one.
    InvalidKey,
    /// The key of the request lacks this scope.
    InsufficientScope(Scope),
    /// A key was not found or not changed.
    Key(KeyError),
    /// No key has this id.
    UnknownKey(String),
    /// The request came without TLS to a server that speaks HTTPS.
    HttpsRequired,
    /// The request uses a host name for this server that a stranger could have made point here.
    HostNotAllowed {
        /// The host name of the request.
        host: String,
    },
    /// A page of another site has caused the request.
    CrossSite {
        /// The origin of the page, or words for it if it is not known.
        origin: String,
    },
    /// The bodies of other requests leave no room for the body of this request.
    NoRoom,
    /// The head or the body of the request came too slowly.
    TooSlow {
        /// The bytes of the head, or of the body, that had come.
        received: usize,
    },
    /// The request has passed through this Leaseway before.
    Loop,
    /// The address of an endpoint is that of this Leaseway.
    EndpointIsLeaseway {
        /// The address in the request.
        base_url: String,
    },
    /// A part of Leaseway cannot answer at the moment, for this reason.
    NotReady(String),
    /// The database cannot be read.
    Database(StoreError),
}

/// When refused clients are told to come again, in seconds, 1 to 60.
#[derive(Clone, Copy, Debug)]
pub struct RetryAfter {
    /// After a refusal because the queue is full or overloaded, if the wait cannot be estimated.
    pub queue_full: u64,
    /// After a refusal because no endpoint is online, or all of them are loading.
    pub no_endpoint: u64,
}

impl ApiError {
    /// Returns the error of a request that makes no sense, without naming a field.
    pub fn invalid(message: impl Into<String>) -> Self {
        ApiError::InvalidRequest { message: message.into(), param: None }
    }

    /// Returns the row of the error: this is the table of errors.
    fn row(&self) -> Row {
        use StatusCode as S;
        match self {
            ApiError::InvalidRequest { message, param } => {
                Row::new(S::BAD_REQUEST, "invalid_request", message).param(param.as_deref())
            }
            ApiError::RequestTooLarge { limit } => {
                let message = format!("the request body is larger than {limit} bytes");
                Row::new(S::PAYLOAD_TOO_LARGE, "request_too_large", message)
            }
            ApiError::Refused { refusal, model, retry_after } => rows::refused(refusal, model, *retry_after),
            ApiError::AllBusy { estimated_wait, model, retry_after } => {
                let message = format!("every endpoint that was tried for the model `{model}` is busy");
                rows::too_many("overloaded", message, *estimated_wait, *retry_after)
            }
            ApiError::OfKey { error, rate } => error.row().rate(rate),
            ApiError::AttemptFailed(endpoint, failure) => rows::attempt_failed(endpoint, failure),
            ApiError::NotAStream { endpoint, status } => {
                let message = format!("endpoint `{endpoint}` answered {} and no stream", status.as_u16());
                Row::new(S::BAD_GATEWAY, "upstream_error", message)
            }
            ApiError::Registry(error) => rows::registry(error),
            ApiError::UnknownModel(model) => {
                let message = format!("no online endpoint has the model `{model}`");
                Row::new(S::NOT_FOUND, "model_not_found", message).param(Some("model"))
            }
            ApiError::UnknownEndpoint(id) => rows::unknown("endpoint", id),
            ApiError::UnknownPath(path) => Row::new(S::NOT_FOUND, "not_found", format!("there is nothing at {path}")),
            ApiError::MethodNotAllowed { method, path, allow } => {
                let message = format!("{method} is not allowed at {path}; allowed are {allow}");
                Row { allow: Some(allow.clone()), ..Row::new(S::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
            }
            ApiError::InvalidKey => rows::invalid_key(),
            ApiError::InsufficientScope(scope) => {
                let message = format!("the key lacks the scope `{}`", scope.as_str());
                Row::new(S::FORBIDDEN, "insufficient_scope", message)
            }
            ApiError::Key(error) => rows::key(error),
            ApiError::UnknownKey(id) => rows::unknown("key", id),
            ApiError::HttpsRequired => Row::new(S::BAD_REQUEST, "https_required", "this server speaks HTTPS, not HTTP"),
            ApiError::HostNotAllowed { host } => {
                let message =
                    format!("the host name `{host}` is not known here; server.allowed_hosts lists more names");
                Row::new(S::MISDIRECTED_REQUEST, "host_not_allowed", message)
            }
            ApiError::CrossSite { origin } => {
                Row::new(S::FORBIDDEN, "cross_site_request", format!("pages of {origin} may not send this request"))
            }
            ApiError::NoRoom => {
                let message = "the bodies of other requests take all of server.max_buffered_bytes";
                Row::new(S::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(RETRY_AFTER_NO_ROOM)
            }
            ApiError::TooSlow { received } => {
                let message = format!("the request comes too slowly: {received} bytes have come");
                Row::new(S::REQUEST_TIMEOUT, "request_timeout", message)
            }
            ApiError::Loop => {
                let message =
                    "the request has passed through this Leaseway before: one of its endpoints leads back to it";
                Row { is_final: true, ..Row::new(S::LOOP_DETECTED, "loop_detected", message) }
            }
            ApiError::EndpointIsLeaseway { base_url } => {
                let message = format!("`base_url` {base_url} is the address of this Leaseway");
                Row::new(S::BAD_REQUEST, "endpoint_is_leaseway", message).param(Some("base_url"))
            }
            ApiError::NotReady(reason) => {
                Row::new(S::SERVICE_UNAVAILABLE, "not_ready", reason).retry_after(RETRY_AFTER_NOT_READY)
            }
            ApiError::Database(error) => rows::unavailable(error.to_string()),
        }
    }

    /// Returns the error as an event for a stream that has begun.
    pub fn event(&self, dialect: Dialect) -> Bytes {
        dialect.error_event(&self.row().parts())
    }

    /// Returns the error as an answer to a request of this dialect.
    pub fn answer(&self, dialect: Dialect) -> HttpResponse {
        let row = self.row();
        let mut response = HttpResponseBuilder::new(row.status);
        if let Some(seconds) = row.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if row.is_final {
            let name = HeaderName::from_static("x-should-retry");
            response.insert_header((name, HeaderValue::from_static("false")));
        }
        if let Some(methods) = &row.allow {
            response.insert_header((header::ALLOW, methods.as_str()));
        }
        if row.challenge {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if row.closes {
            response.force_close();
        }
        let mut response = response.json(dialect.error_body(&row.parts()));
        if let Some(rate) = &row.rate {
            rate_headers::add(response.headers_mut(), rate);
        }
        response
    }

    /// Returns the error as the bytes of an answer after which the connection is closed, for a request whose head has not come
    /// whole.
    pub fn to_bytes(&self) -> Vec<u8> {
        let row = self.row();
        let body = Dialect::default().error_body(&row.parts()).to_string();
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {}\r\n\
             connection: close\r\n\r\n",
            row.status,
            body.len(),
            Uuid::new_v4(),
        );
        (head + &body).into_bytes()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.row().message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.row().status
    }

    fn error_response(&self) -> HttpResponse {
        self.answer(Dialect::default())
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        ApiError::Key(error)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        ApiError::Registry(error)
    }
}

#[cfg(test)]
mod tests;
