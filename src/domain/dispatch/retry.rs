//! How a request goes on to another endpoint.

use std::sync::Arc;

use super::Dispatcher;
use super::decision::{Decision, Retried, Submitted};
use crate::domain::ids::Ticket;
use crate::domain::request::{EndedLease, LeaseEnd, Refusal};
use crate::domain::time::Moment;

impl Dispatcher {
    /// Ends the lease of an attempt that failed, passes its slot on, and asks for a lease on an endpoint that has not failed
    /// the request yet; `None` if the lease is not known or has ended before, and its request with it.
    ///
    /// The failed attempt was the request's last one if no untried endpoint can serve the request.
    pub fn retry(
        &mut self,
        now: Moment,
        ticket: Ticket,
        failed: LeaseEnd,
        deadline: Moment,
        decisions: &mut Vec<Decision>,
    ) -> Option<Retried> {
        let ended = self.end(now, failed, decisions)?;
        let request = Arc::new(ended.request.after_failure_of(ended.endpoint));
        let submitted = self.submit(now, ticket, request.clone(), deadline, decisions);
        let is_final = matches!(submitted, Submitted::Refused(Refusal::NothingUntried { .. }));
        Some(Retried { ended: EndedLease { is_final, ..ended }, request, submitted })
    }
}
