//! The answers of the dispatcher.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::limits::RateStatus;
use crate::domain::ids::{LeaseId, Ticket};
use crate::domain::request::{EndedLease, LeaseRequest, Refusal};
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// The right to use one slot of one endpoint.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The lease, which its holder must end.
    pub lease: LeaseId,
    /// The server that the request goes to.
    pub target: Arc<Target>,
    /// When the lease was granted.
    pub granted: Moment,
    /// The time from the request's arrival to the grant; zero for a request that did not wait.
    pub waited: Duration,
    /// What the request was told when it joined the line; `None` for a request that did not wait.
    pub queued: Option<Queued>,
    /// The holder must report the first byte of a good answer. This is so if the lease is the trial of a skipped
    /// endpoint, or if the answer decides whether an endpoint of an earlier attempt is to blame.
    pub reports_first_byte: bool,
    /// How much is left of the limits of the request's key; `None` if no limit can be exceeded.
    pub rate: Option<Box<RateStatus>>,
}

/// Why a lease was granted on its endpoint and not on the next best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantReason {
    /// No other endpoint had a free slot for the model.
    OnlyCandidate,
    /// The next best endpoint has just failed a request.
    NotFailing,
    /// The next best endpoint is busy.
    NotBusy,
    /// The next best endpoint reports no load.
    Reported,
    /// The next best endpoint reports more load.
    LowestScore,
    /// The next best endpoint has a lower capability score.
    HighestCapability,
    /// The next best endpoint has a larger part of its slots taken.
    LeastActive,
    /// The endpoints ranked equally, and this one was chosen longest ago.
    RoundRobin,
}

/// What a request is told about its wait when it joins the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The request's place in the order of service, from 1.
    pub position: usize,
    /// How long the request will probably wait, in whole seconds; `None` while no request for its model was served.
    pub estimated_wait: Option<Duration>,
}

/// The answer to a request that has waited.
#[derive(Debug)]
pub enum Decision {
    /// The request with this ticket gets a lease.
    Grant(Ticket, Grant),
    /// The request with this ticket gets no lease.
    Refuse(Ticket, Refusal),
}

/// The first answer to a request.
#[derive(Debug)]
pub enum Submitted {
    /// The request gets a lease at once.
    Granted(Grant),
    /// The request gets no lease.
    Refused(Refusal),
    /// The request waits; a [`Decision`] follows unless the request is cancelled.
    Waiting,
}

/// The end of a failed attempt and the first answer to the next attempt.
#[derive(Debug)]
pub struct Retried {
    /// The attempt that failed. It also ends the request if no untried endpoint can serve the request.
    pub ended: EndedLease,
    /// The request of the next attempt.
    pub request: Arc<LeaseRequest>,
    /// The first answer to the next attempt.
    pub submitted: Submitted,
}
