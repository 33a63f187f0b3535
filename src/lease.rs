//! The lease as its holder sees it: a value that reports its own end.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};

use crate::domain::dispatch::{Grant, Queued};
use crate::domain::endpoint::Target;
use crate::domain::ids::LeaseId;
use crate::domain::request::Outcome;

/// Ends a lease; sent by the lease itself, exactly once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndLease {
    pub lease: LeaseId,
    pub outcome: Outcome,
}

/// The right to use one slot of one endpoint for one request.
///
/// It holds no count: LoadManager's table is the only one. Dropping it reports [`Outcome::Abandoned`], so that no path on
/// which a client leaves can forget to.
#[derive(Debug)]
#[must_use = "a lease that is dropped is abandoned"]
pub struct Lease {
    grant: Grant,
    /// `None` once the end is reported.
    report: Option<Arc<Recipient<EndLease>>>,
}

impl Lease {
    /// Wraps a grant; only LoadManager makes leases.
    pub fn new(grant: Grant, report: Arc<Recipient<EndLease>>) -> Self {
        Self { grant, report: Some(report) }
    }

    /// Returns where the request goes.
    pub fn target(&self) -> &Arc<Target> {
        &self.grant.target
    }

    /// Returns what the request was told when it joined the line, and how long it waited; `None` if it did not.
    pub fn queued(&self) -> Option<(Queued, Duration)> {
        Some((self.grant.queued?, self.grant.waited))
    }

    /// Ends the lease and frees its slot.
    pub fn end(mut self, outcome: Outcome) {
        self.report_end(outcome);
    }

    fn report_end(&mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            report.do_send(EndLease { lease: self.grant.lease, outcome });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.report_end(Outcome::Abandoned);
    }
}
