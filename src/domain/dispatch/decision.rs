//! What the dispatcher answers.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::domain::endpoint::Target;
use crate::domain::ids::{LeaseId, Ticket};
use crate::domain::request::{EndedLease, LeaseRequest, Refusal};
use crate::domain::time::Moment;

/// The right to use one slot of one endpoint.
#[derive(Clone, Debug)]
pub struct Grant {
    pub lease: LeaseId,
    pub target: Arc<Target>,
    pub granted: Moment,
    /// From arrival to grant; zero for a request that did not wait.
    pub waited: Duration,
    /// `None` for a request that did not wait.
    pub queued: Option<Queued>,
    /// The first byte of a good answer is to be told: an endpoint is tried with this lease after it was skipped, or the
    /// answer decides whether an earlier endpoint of the request is to blame.
    pub reports_first_byte: bool,
}

/// Why a lease was granted on its endpoint and on no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantReason {
    /// No other had a free slot for the model.
    OnlyCandidate,
    /// The next best has just failed a request.
    NotFailing,
    /// The next best is busy.
    NotBusy,
    /// The next best reports no load.
    Reported,
    /// The next best reports more load.
    LowestScore,
    /// The next best has a lower capability score.
    HighestCapability,
    /// The next best has a larger part of its slots taken.
    LeastActive,
    /// It ranked as high as any, and its turn was longest ago.
    RoundRobin,
}

/// What a request is told about its wait when it joins the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// From 1: its place in the order of service.
    pub position: usize,
    /// In whole seconds; `None` without data.
    pub estimated_wait: Option<Duration>,
}

/// The answer to a request that had been waiting.
#[derive(Debug)]
pub enum Decision {
    Grant(Ticket, Grant),
    Refuse(Ticket, Refusal),
}

/// The first answer to a request.
#[derive(Debug)]
pub enum Submitted {
    Granted(Grant),
    Refused(Refusal),
    /// A [`Decision`] follows.
    Waiting,
}

/// The end of a failed attempt and the first answer to the one that follows it.
#[derive(Debug)]
pub struct Retried {
    /// The attempt that failed. Its end is that of the request if no untried endpoint can serve the request.
    pub ended: EndedLease,
    /// What the next attempt asks for.
    pub request: Arc<LeaseRequest>,
    /// The answer to it.
    pub submitted: Submitted,
}
