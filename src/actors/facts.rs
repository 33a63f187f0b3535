//! Facts that one actor tells others; more than one actor reads or sends each of them.

use std::sync::Arc;

use actix::Message;
use chrono::NaiveDate;

use crate::domain::blame::Blamed;
use crate::domain::endpoint::EndpointFacts;
use crate::domain::ids::{EndpointId, KeyId};
use crate::domain::keys::KeyLimits;
use crate::domain::load::LoadReport;
use crate::domain::request::{EndedLease, UnservedRequest};
use crate::domain::time::Moment;

/// Leases have ended, in this order.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct LeasesEnded(pub Vec<Arc<EndedLease>>);

/// An endpoint is to blame for a failed request. This may be known only after the request's next attempts.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EndpointBlamed(pub Blamed);

/// A request has ended without ever having a lease.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RequestUnserved(pub UnservedRequest);

/// An endpoint has reported its load.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LoadReported {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// What it reported.
    pub report: LoadReport,
    /// When Leaseway received the report.
    pub received: Moment,
}

/// An endpoint has answered a probe well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct EndpointAnswered {
    /// The endpoint that answered.
    pub endpoint: EndpointId,
    /// When the probe was sent.
    pub sent: Moment,
    /// The operator has asked for the models to be read anew.
    pub is_sync: bool,
}

/// Endpoints have been added, changed or removed.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct EndpointsChanged {
    /// All facts of each endpoint that is new or has changed.
    pub updated: Vec<EndpointFacts>,
    /// Endpoints that have been removed.
    pub removed: Vec<EndpointId>,
}

/// Keys have been added, changed or removed. LoadManager must learn of a key before the first request of the key, because
/// a key that it does not know has no limits.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct KeysChanged {
    /// The limits of each key that is new or has changed.
    pub updated: Vec<(KeyId, KeyLimits)>,
    /// Keys that have been removed.
    pub removed: Vec<KeyId>,
}

/// What keys have used today before Leaseway was started. It is told once, after the keys.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct TokensUsed {
    /// The local day on which the tokens were used. If the day is over, the message has no effect.
    pub date: NaiveDate,
    /// The tokens of prompts and answers that each key has used.
    pub used: Vec<(KeyId, u64)>,
}
