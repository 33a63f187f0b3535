//! The lease as the holder of a request sees it: a value that reports its own end.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};

use crate::domain::dispatch::{Grant, Queued, RateStatus};
use crate::domain::ids::{LeaseId, ModelId};
use crate::domain::request::{Failure, LeaseEnd, Outcome};
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// Ends a lease. The lease itself sends this message exactly once, unless it is handed in.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndLease(pub LeaseEnd);

/// Tells that a good answer has begun: to a trial request, or to a retry that decides which endpoint is to blame. The lease of
/// the request sends this message at most once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AnswerBegan(pub LeaseId);

/// The recipients of the messages that leases send.
#[derive(Debug)]
pub struct LeaseReports {
    /// Hears of the end of every lease.
    pub ends: Recipient<EndLease>,
    /// Hears of the first byte of a good answer to a trial request or a deciding retry.
    pub first_bytes: Recipient<AnswerBegan>,
}

/// The right to use one slot of one endpoint for one request.
///
/// The lease holds no count: LoadManager's table is the only one. Dropping the lease reports [`Outcome::Abandoned`], or the
/// failure that was noted before, so that no path on which a client leaves can forget to free the slot.
#[derive(Debug)]
#[must_use = "a lease that is dropped is abandoned"]
pub struct Lease {
    grant: Grant,
    first_token: Option<Duration>,
    answered_model: Option<ModelId>,
    /// The outcome that a drop reports.
    outcome: Outcome,
    /// `None` once the lease has been handed in or has reported its end.
    report: Option<Arc<LeaseReports>>,
}

impl Lease {
    /// Wraps a grant; only LoadManager makes leases.
    pub fn new(grant: Grant, report: Arc<LeaseReports>) -> Self {
        Self { grant, first_token: None, answered_model: None, outcome: Outcome::Abandoned, report: Some(report) }
    }

    /// Returns the endpoint that the request goes to.
    pub fn target(&self) -> &Arc<Target> {
        &self.grant.target
    }

    /// Returns what was expected when the request joined the queue, and how long it waited; `None` if it did not wait.
    pub fn queued(&self) -> Option<(Queued, Duration)> {
        Some((self.grant.queued?, self.grant.waited))
    }

    /// Takes out how much is left of the limits of the request's key; `None` if no limit can be exceeded.
    pub fn take_rate(&mut self) -> Option<Box<RateStatus>> {
        self.grant.rate.take()
    }

    /// Notes the time of the first token of the answer; later calls change nothing.
    pub fn see_token(&mut self, now: Moment) {
        self.first_token.get_or_insert(now.since(self.grant.granted));
    }

    /// Reports the first byte of a good answer if the dispatcher waits for it: to close the breaker of a trial's endpoint, or
    /// to decide which endpoint a retry blames. Other leases report nothing.
    pub fn answer_begins(&self) {
        if let Some(report) = self.report.as_ref().filter(|_| self.grant.reports_first_byte) {
            report.first_bytes.do_send(AnswerBegan(self.grant.lease));
        }
    }

    /// Notes the model that the answer names; `None` if it is the one asked for.
    pub fn see_other_model(&mut self, answered_model: Option<ModelId>) {
        self.answered_model = answered_model;
    }

    /// Ends the lease and frees its slot.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Notes a failure, which becomes the outcome when the lease is dropped or handed in.
    pub fn fail(&mut self, failure: Failure) {
        self.outcome = Outcome::Failed(failure);
    }

    /// Hands the lease in: returns its end, which the caller must report instead of the lease.
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
