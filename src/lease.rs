//! The lease as its holder sees it: a value that reports its own end.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};

use crate::domain::dispatch::{Grant, Queued};
use crate::domain::endpoint::Target;
use crate::domain::ids::{LeaseId, ModelId};
use crate::domain::request::{Failure, LeaseEnd, Outcome};
use crate::domain::time::Moment;

/// Ends a lease; sent by the lease itself, exactly once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndLease(pub LeaseEnd);

/// Tells that a good answer has begun, to a trial request or to a retry that decides whom to blame; sent by the request's lease, at most once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AnswerBegan(pub LeaseId);

/// Where leases report to.
#[derive(Debug)]
pub struct LeaseReports {
    /// Hears of the end of every lease.
    pub ends: Recipient<EndLease>,
    /// Hears of the first byte of a good answer to a trial request.
    pub trials: Recipient<AnswerBegan>,
}

/// The right to use one slot of one endpoint for one request.
///
/// The lease holds no count: LoadManager's table is the only one. Dropping the lease reports [`Outcome::Abandoned`], or the
/// failure that was noted before, so that no path on which a client leaves can forget to give the slot back.
#[derive(Debug)]
#[must_use = "a lease that is dropped is abandoned"]
pub struct Lease {
    grant: Grant,
    first_token: Option<Duration>,
    answered_model: Option<ModelId>,
    /// What a drop reports.
    outcome: Outcome,
    /// `None` once the lease is handed in or dropped.
    report: Option<Arc<LeaseReports>>,
}

impl Lease {
    /// Wraps a grant; only LoadManager makes leases.
    pub fn new(grant: Grant, report: Arc<LeaseReports>) -> Self {
        Self { grant, first_token: None, answered_model: None, outcome: Outcome::Abandoned, report: Some(report) }
    }

    /// Returns where the request goes.
    pub fn target(&self) -> &Arc<Target> {
        &self.grant.target
    }

    /// Returns what the request was told when it joined the line, and how long it waited; `None` if it did not wait.
    pub fn queued(&self) -> Option<(Queued, Duration)> {
        Some((self.grant.queued?, self.grant.waited))
    }

    /// Takes note of the first token of the answer; later tokens change nothing.
    pub fn see_token(&mut self, now: Moment) {
        self.first_token.get_or_insert(now.since(self.grant.granted));
    }

    /// Takes note of the first byte of a good answer. Only a lease reports it whose trial or retry is decided by it.
    pub fn answer_begins(&self) {
        if let Some(report) = self.report.as_ref().filter(|_| self.grant.reports_first_byte) {
            report.trials.do_send(AnswerBegan(self.grant.lease));
        }
    }

    /// Takes note of the model that the answer names, if that is not the one asked for.
    pub fn see_other_model(&mut self, answered_model: Option<ModelId>) {
        self.answered_model = answered_model;
    }

    /// Ends the lease and frees its slot.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Takes note of a failure; the lease ends with it as soon as it is dropped or handed in.
    pub fn fail(&mut self, failure: Failure) {
        self.outcome = Outcome::Failed(failure);
    }

    /// Hands the lease in: returns the end that it would report, which the caller must then report.
    pub fn into_end(mut self) -> LeaseEnd {
        self.report = None;
        self.make_end()
    }

    fn make_end(&mut self) -> LeaseEnd {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Abandoned);
        LeaseEnd {
            lease: self.grant.lease,
            outcome,
            first_token: self.first_token,
            answered_model: self.answered_model.take(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report.ends.do_send(EndLease(self.make_end()));
        }
    }
}
