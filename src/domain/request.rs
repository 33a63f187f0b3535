//! One request: what it asks for, why it can be refused, and how its lease ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::blame::Comparison;
use super::dispatch::{RateLimit, RateStatus};
use super::ids::{ClientId, EndpointId, KeyId, LeaseId, ModelId, RequestId};
use super::target::Target;
use super::time::Moment;

/// The inference API that a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKind {
    /// Chat completions, `/v1/chat/completions`.
    ChatCompletions,
    /// Text completions, `/v1/completions`.
    Completions,
    /// Embeddings, `/v1/embeddings`; never a stream.
    Embeddings,
    /// Responses, `/v1/responses`.
    Responses,
}

impl ApiKind {
    /// Returns the path of this API, the same at Leaseway and at every endpoint.
    pub fn path(self) -> &'static str {
        match self {
            ApiKind::ChatCompletions => "/v1/chat/completions",
            ApiKind::Completions => "/v1/completions",
            ApiKind::Embeddings => "/v1/embeddings",
            ApiKind::Responses => "/v1/responses",
        }
    }

    /// Returns the name used in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            ApiKind::ChatCompletions => "chat_completions",
            ApiKind::Completions => "completions",
            ApiKind::Embeddings => "embeddings",
            ApiKind::Responses => "responses",
        }
    }

    /// Returns the API with this name; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ChatCompletions, Self::Completions, Self::Embeddings, Self::Responses]
            .into_iter()
            .find(|api_kind| api_kind.as_str() == name)
    }
}

/// A request as the dispatcher sees it.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The request's id, for logs and the history.
    pub id: RequestId,
    /// The model that the client asks for.
    pub model: ModelId,
    /// The API of the request.
    pub api_kind: ApiKind,
    /// The client for whom fairness is counted. A client of a key belongs to no other key.
    pub client: ClientId,
    /// The key whose limits hold; `None` while access is open.
    pub key: Option<KeyId>,
    /// The name of this key, for the history.
    pub key_name: Option<Arc<str>>,
    /// The length of the request's body, from which its tokens are estimated; zero without a key.
    pub body_bytes: u64,
    /// Endpoints that have failed this request. The request is not granted on them again.
    pub tried: Vec<EndpointId>,
    /// What the answers of 500 or above that the request got so far show.
    pub comparison: Comparison,
}

impl LeaseRequest {
    /// Returns a request without a key, before its first attempt.
    pub fn new(id: RequestId, model: ModelId, api_kind: ApiKind, client: ClientId) -> Self {
        let (key, key_name, body_bytes, tried) = (None, None, 0, Vec::new());
        Self { id, model, api_kind, client, key, key_name, body_bytes, tried, comparison: Comparison::Nothing }
    }

    /// Returns the request as a request of a key, with a body of `body_bytes` bytes.
    pub fn with_key(self, key: KeyId, name: Arc<str>, body_bytes: u64) -> Self {
        Self { key: Some(key), key_name: Some(name), body_bytes, ..self }
    }

    /// Tells whether an endpoint has already failed the request.
    pub fn is_retry(&self) -> bool {
        !self.tried.is_empty()
    }

    /// Returns the number of this attempt, from 1.
    pub fn attempt(&self) -> usize {
        self.tried.len() + 1
    }
}

/// Why a request got no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint, online or not, has the model, and every endpoint has been probed.
    ModelNotFound,
    /// Endpoints have the model, but none of them is online.
    NoEndpointOnline,
    /// Every endpoint that may serve the model is still loading, and the request has waited for this as long as it may.
    WarmingUp,
    /// As many requests wait as may wait.
    QueueFull {
        /// How long a new request would wait, in whole seconds; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
    },
    /// As many requests of the client's key wait as may wait.
    KeyQueueFull {
        /// How many requests of the key may wait.
        max_waiting: u64,
        /// How long a new request would wait, in whole seconds; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
    },
    /// A limit of the client's key is exceeded.
    RateLimitExceeded {
        /// The limit.
        limit: RateLimit,
        /// The value of the limit.
        value: u64,
        /// When a request of the key is admitted again, if nothing more is used until then.
        retry_after: Duration,
        /// How much is left of the limits of the key.
        status: Box<RateStatus>,
    },
    /// So many requests wait that new ones are refused before the line is full.
    Overloaded {
        /// How long a new request would wait, in whole seconds; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
    },
    /// Every endpoint that could serve the retry has already failed the request.
    NothingUntried {
        /// How long a new request would wait, in whole seconds; `None` while no request for the model was served.
        estimated_wait: Option<Duration>,
    },
    /// Every online endpoint that has the model has answered that it does not serve this API.
    ApiNotSupported(ApiKind),
    /// No slot became free before the request's deadline.
    QueueTimeout {
        /// How long the request has waited in total.
        waited: Duration,
    },
    /// Leaseway is stopping.
    Draining,
}

impl Refusal {
    /// Returns the name used in answers and in the history.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::ModelNotFound => "model_not_found",
            Refusal::NoEndpointOnline => "no_endpoint_online",
            Refusal::WarmingUp => "warming_up",
            Refusal::QueueFull { .. } | Refusal::KeyQueueFull { .. } => "queue_full",
            Refusal::RateLimitExceeded { .. } => "rate_limit_exceeded",
            Refusal::Overloaded { .. } => "overloaded",
            Refusal::NothingUntried { .. } => "upstream_error",
            Refusal::ApiNotSupported(_) => "api_not_supported",
            Refusal::QueueTimeout { .. } => "queue_timeout",
            Refusal::Draining => "draining",
        }
    }
}

/// The tokens of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// Tokens of the prompt; `None` if the endpoint did not report them.
    pub input: Option<u64>,
    /// Tokens of the answer.
    pub output: u64,
    /// `output` is the number of content chunks, because the endpoint reported no usage.
    pub estimated: bool,
}

/// Why a lease ended in failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made.
    Unreachable(String),
    /// The connection broke, or the endpoint sent something that is not HTTP.
    ConnectionLost(String),
    /// The endpoint closed the connection before it had read the whole request. Endpoints do so to refuse a long
    /// request.
    RequestCutOff,
    /// No byte of the answer's body came in time.
    FirstByteTimeout,
    /// The endpoint stopped sending in mid-answer.
    IdleTimeout,
    /// The endpoint answered with this status, 400 or above.
    Status(u16),
    /// Leaseway stopped before the answer was complete.
    ShutDown,
}

impl Failure {
    /// Tells whether another endpoint may do better, if no byte of the answer has gone to the client. A first byte that
    /// did not come in time is waited for only once: the client has waited long enough.
    pub fn can_be_retried(&self) -> bool {
        match self {
            Failure::Unreachable(_) | Failure::ConnectionLost(_) => true,
            Failure::Status(status) => *status == 429 || *status >= 500,
            Failure::RequestCutOff | Failure::FirstByteTimeout | Failure::IdleTimeout | Failure::ShutDown => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(reason) => write!(f, "cannot be reached: {reason}"),
            Failure::ConnectionLost(reason) => write!(f, "connection lost: {reason}"),
            Failure::RequestCutOff => f.write_str("closed the connection before it had read the whole request"),
            Failure::FirstByteTimeout => f.write_str("no first byte in time"),
            Failure::IdleTimeout => f.write_str("stopped sending in mid-answer"),
            Failure::Status(status) => write!(f, "answered {status}"),
            Failure::ShutDown => f.write_str("cut off by shutdown"),
        }
    }
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was relayed whole.
    Succeeded {
        /// `None`: unknown, which is not zero.
        tokens: Option<TokenCount>,
    },
    /// The answer was not relayed whole, or its status is an error.
    Failed(Failure),
    /// The client left. This is neither success nor failure.
    Abandoned,
}

/// The end of a lease, as its holder reports it.
#[derive(Clone, Debug)]
pub struct LeaseEnd {
    /// The lease that has ended.
    pub lease: LeaseId,
    /// How the lease ended.
    pub outcome: Outcome,
    /// From dispatch to the first content of a stream; `None` if none came.
    pub first_token: Option<Duration>,
    /// The model that the answer names; `None` if that is the one asked for, or if it names none.
    pub answered_model: Option<ModelId>,
}

impl LeaseEnd {
    /// Ends a lease without a token.
    pub fn new(lease: LeaseId, outcome: Outcome) -> Self {
        Self { lease, outcome, first_token: None, answered_model: None }
    }
}

/// The record of one ended lease.
#[derive(Clone, Debug)]
pub struct EndedLease {
    /// The request of the lease.
    pub request: Arc<LeaseRequest>,
    /// The endpoint that the lease was granted on, with the server that it had then.
    pub target: Arc<Target>,
    /// How the lease ended.
    pub outcome: Outcome,
    /// The request has ended with this lease. False if the request goes on to another endpoint.
    pub is_final: bool,
    /// When the lease was granted.
    pub granted: Moment,
    /// The time from dispatch to the last byte.
    pub duration: Duration,
    /// From dispatch to the first content of a stream; `None` if none came.
    pub first_token: Option<Duration>,
    /// The model that the answer names; `None` if that is the one asked for, or if it names none.
    pub answered_model: Option<ModelId>,
    /// The time from the request's arrival to dispatch.
    pub waited: Duration,
}

/// The record of a request that has ended without a lease.
#[derive(Clone, Debug)]
pub struct UnservedRequest {
    /// The request.
    pub request: Arc<LeaseRequest>,
    /// Why the request got no lease; `None` if its client left.
    pub refusal: Option<Refusal>,
    /// How long the request has waited.
    pub waited: Duration,
}

impl fmt::Display for EndedLease {
    /// Writes a log line's `key=value` pairs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeaseRequest { id, model, .. } = &*self.request;
        write!(f, "request_id={} attempt={} ", id.as_str(), self.request.attempt())?;
        write!(f, "endpoint_id={} model={:?} ", self.target.id, model.as_str())?;
        write!(f, "duration_ms={} wait_ms={} ", self.duration.as_millis(), self.waited.as_millis())?;
        match &self.outcome {
            Outcome::Succeeded { tokens: None } => f.write_str("outcome=succeeded"),
            Outcome::Succeeded { tokens: Some(tokens) } => {
                write!(f, "outcome=succeeded output_tokens={} estimated={}", tokens.output, tokens.estimated)
            }
            Outcome::Failed(failure) => write!(f, "outcome=failed error=\"{failure}\""),
            Outcome::Abandoned => f.write_str("outcome=abandoned"),
        }
    }
}
