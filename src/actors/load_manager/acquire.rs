//! Requests for leases, which are granted at once, granted after a wait, or refused.

use std::sync::Arc;

use actix::{Context, Handler, Message};

use super::{LoadManager, QueueUpdates};
use crate::actors::facts::RequestUnserved;
use crate::actors::promise::{Caller, Promise};
use crate::clock::{self, Stopwatch};
use crate::domain::dispatch::{Retried, Submitted};
use crate::domain::ids::Ticket;
use crate::domain::request::{LeaseRequest, Refusal, UnservedRequest};
use crate::domain::time::Moment;
use crate::lease::Lease;

/// The answer to a request for a lease.
pub type LeaseAnswer = Result<Lease, Refusal>;

/// The attempt that a lease is asked for.
#[derive(Debug)]
pub enum Ask {
    /// The first attempt of a request.
    First(Arc<LeaseRequest>),
    /// The next attempt of the request whose failed attempt has this lease. Asking ends the lease.
    Again(Lease),
}

/// A request that waits for a lease.
pub(super) struct WaitingCaller {
    /// Gets the lease or the refusal.
    pub caller: Caller<LeaseAnswer>,
    /// The request that waits.
    pub request: Arc<LeaseRequest>,
    /// When the wait began.
    pub since: Moment,
}

/// Asks for a lease before `deadline`.
#[derive(Message)]
#[rtype(result = "LeaseAnswer")]
pub struct AcquireLease {
    /// Identifies this message; no other message has the same ticket.
    pub ticket: Ticket,
    /// The attempt that the lease is for.
    pub ask: Ask,
    /// When the wait ends with a refusal.
    pub deadline: Moment,
    /// Gets the place in the queue while the request waits; `None` if the client wants no updates.
    pub updates: Option<QueueUpdates>,
}

impl Handler<AcquireLease> for LoadManager {
    type Result = Promise<LeaseAnswer>;

    fn handle(&mut self, message: AcquireLease, ctx: &mut Context<Self>) -> Promise<LeaseAnswer> {
        let AcquireLease { ticket, ask, deadline, updates } = message;
        let mut decisions = Vec::new();
        let now = clock::now();
        let stopwatch = Stopwatch::start();
        // If the failed attempt is recorded as the end of the request, the refusal must not record another end.
        let mut has_ended = false;
        let (request, submitted) = match ask {
            Ask::First(request) => {
                let submitted = self.dispatcher.submit(now, ticket, request.clone(), deadline, &mut decisions);
                (request, submitted)
            }
            Ask::Again(failed) => {
                let retried = self.dispatcher.retry(now, ticket, failed.into_end(), deadline, &mut decisions);
                let Some(Retried { ended, request, submitted }) = retried else {
                    // The lease and its request were ended when the shutdown grace was over.
                    self.carry_out(decisions, ctx);
                    return Promise::Now(Err(Refusal::Draining));
                };
                has_ended = ended.is_final;
                self.note_ended(ended, ctx);
                (request, submitted)
            }
        };
        let answer = match submitted {
            Submitted::Granted(grant) => {
                self.selection_time += stopwatch.elapsed();
                Promise::Now(Ok(self.lease(grant)))
            }
            Submitted::Refused(refusal) => {
                if !has_ended {
                    self.tell_unserved(request, Some(refusal.clone()), now);
                }
                Promise::Now(Err(refusal))
            }
            Submitted::Waiting => {
                let (caller, answer) = Caller::keep();
                self.waiting.insert(ticket, WaitingCaller { caller, request, since: now });
                if let Some(updates) = updates {
                    self.watchers.add(&self.dispatcher, ticket, updates);
                }
                answer
            }
        };
        self.carry_out(decisions, ctx);
        answer
    }
}

/// Takes a request out of the queue. It has no effect if the request has its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CancelWait(pub Ticket);

impl Handler<CancelWait> for LoadManager {
    type Result = ();

    fn handle(&mut self, CancelWait(ticket): CancelWait, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        if let Some(WaitingCaller { request, since, .. }) = self.end_wait(ticket) {
            self.tell_unserved(request, None, since);
        }
        self.dispatcher.cancel(clock::now(), ticket, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

impl LoadManager {
    /// Reports a request that has ended without a lease.
    pub(super) fn tell_unserved(&mut self, request: Arc<LeaseRequest>, refusal: Option<Refusal>, since: Moment) {
        let now = clock::now();
        if let Some(refusal) = &refusal {
            self.last_hour.refused(now, refusal);
            self.note_refusal(refusal);
        }
        self.unserved.do_send(RequestUnserved(UnservedRequest { request, refusal, waited: now.since(since) }));
    }
}
