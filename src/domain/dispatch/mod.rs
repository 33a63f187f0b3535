//! The dispatcher: it knows which requests hold a slot and which wait, and decides which waiting request is next.
//!
//! Invariants, asserted by [`Dispatcher::assert_invariants`] after every step of the simulation and, in debug builds,
//! after every call:
//!
//! - an endpoint never has more leases than slots, unless its slots were lowered under what was in flight;
//! - every request is answered exactly once: granted, refused or cancelled;
//! - every lease ends exactly once, and unknown ends are ignored;
//! - apart from retries, the number of waiting requests is bounded, and no expired request waits;
//! - no request waits while an online endpoint has a free slot, serves the model and the API, is not skipped and has
//!   not failed the request, unless the request's key holds as many leases as it may;
//! - a key never has more leases than its `max_concurrency`, unless that was lowered under what it held;
//! - what a key was charged for a request is given back if the request was never sent to an endpoint;
//! - no request waits if no endpoint can serve it later;
//! - clients are served round robin; the requests of one client for a model are served in the order of their arrival,
//!   but retries before others;
//! - no lease is granted on an endpoint that is gone or not online; a lease is granted on a skipped endpoint only if
//!   the model has no other.

pub mod admission;
mod breaker;
pub mod choose;
mod decision;
mod estimate;
mod fleet;
mod index;
mod invariants;
mod keys;
mod limits;
mod line;
mod model_queue;
mod model_set;
mod models;
mod order;
mod queue;
mod retry;
mod served;
mod trials;
mod unserved;
mod views;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use self::admission::Admission;
pub use self::breaker::{Breaker, BreakerState, BreakerView, Skip};
use self::choose::Balancing;
pub use self::decision::{Decision, Grant, GrantReason, Queued, Retried, Submitted};
use self::fleet::Fleet;
use self::limits::{AccountNumber, Charge, Limits};
pub use self::limits::{Rate, RateLimit, RateStatus};
use self::line::WaitingRequest;
use self::models::ModelNumber;
use self::queue::Queue;
use self::views::RecentGrants;
pub use self::views::{ModelWait, RecentGrant, Running};
use super::blame::{Attempt, Blamed, Sign, Suspect};
use super::endpoint::EndpointFacts;
use super::ids::{EndpointId, LeaseId, Ticket};
use super::load::LoadReport;
use super::request::{EndedLease, Failure, LeaseEnd, LeaseRequest, Outcome, Refusal};
use super::target::Target;
use super::time::Moment;

/// The rules of waiting.
#[derive(Clone, Copy, Debug)]
pub struct QueueRules {
    /// How many requests may wait; retries are not counted.
    pub max_waiting: usize,
    /// How new requests are delayed and refused before the line is full.
    pub admission: Admission,
    /// How long a request may wait for an endpoint that is still loading; zero: not at all.
    pub warm_up: Duration,
}

/// How many leases were granted since the start.
#[derive(Clone, Debug, Default)]
pub struct Selections {
    /// All grants.
    pub total: u64,
    /// The grants for each reason; reasons without grants are left out.
    pub by_reason: BTreeMap<GrantReason, u64>,
}

struct Held {
    target: Arc<Target>,
    request: Arc<LeaseRequest>,
    /// The number of the request's model. The lease counts as a user of the model.
    model: ModelNumber,
    granted: Moment,
    waited: Duration,
    /// An earlier attempt of the request, which this one decides about.
    undecided: Option<Arc<Suspect>>,
    /// What the request's key was charged; `None` without a key.
    charge: Option<Charge>,
}

/// Grants leases on endpoints and keeps the queue of requests that wait for one.
///
/// Every method that takes `now` and `decisions` first refuses expired requests and only then grants slots. Decisions
/// about waiting requests are added to `decisions` in the order in which they are made.
pub struct Dispatcher {
    fleet: Fleet,
    queue: Queue,
    limits: Limits,
    leases: HashMap<LeaseId, Held>,
    recent_grants: RecentGrants,
    selections: Selections,
    next_lease: u64,
    rules: QueueRules,
    draining: bool,
    /// What is now known of endpoints that were undecided about; empty after every call.
    verdicts: Vec<(Arc<Suspect>, Sign)>,
    /// Endpoints found to be to blame since [`Dispatcher::take_blamed`] was last asked.
    blamed: Vec<Blamed>,
    /// Keys that may hold more leases than before, whose clients do not take part yet; empty after every call.
    below_limit: Vec<AccountNumber>,
}

impl Dispatcher {
    /// Creates a dispatcher without endpoints.
    pub fn new(rules: QueueRules, balancing: Balancing) -> Self {
        Self {
            fleet: Fleet::new(balancing),
            queue: Queue::default(),
            limits: Limits::default(),
            leases: HashMap::new(),
            recent_grants: RecentGrants::default(),
            selections: Selections::default(),
            next_lease: 0,
            rules,
            draining: false,
            verdicts: Vec::new(),
            blamed: Vec::new(),
            below_limit: Vec::new(),
        }
    }

    /// Decides on a new request: a lease at once, a place in the line until `deadline`, or a refusal.
    pub fn submit(
        &mut self,
        now: Moment,
        ticket: Ticket,
        request: Arc<LeaseRequest>,
        deadline: Moment,
        decisions: &mut Vec<Decision>,
    ) -> Submitted {
        self.expire(now, decisions);
        let submitted = if self.draining {
            Submitted::Refused(Refusal::Draining)
        } else {
            let model = self.fleet.models_mut().take(&request.model);
            match self.charge(now, model, &request) {
                Ok(charge) => self.place(now, WaitingRequest::new(now, ticket, (request, model), deadline, charge)),
                Err(refusal) => {
                    self.fleet.models_mut().give_back(model);
                    Submitted::Refused(refusal)
                }
            }
        };
        self.debug_assert_invariants();
        submitted
    }

    /// Decides on a request that was charged: a lease at once, a place in the line, or a refusal.
    fn place(&mut self, now: Moment, waiting: WaitingRequest) -> Submitted {
        self.fleet.look(now);
        let (model, charge) = (waiting.model, waiting.charge);
        let must_wait = waiting.account().is_some_and(|account| self.limits.is_at_limit(account));
        let chosen = if must_wait { None } else { self.fleet.choose(model, &waiting.request) };
        let refusal = if let Some((endpoint, reason)) = chosen {
            return Submitted::Granted(self.grant(now, endpoint, reason, waiting, false));
        } else if self.draining && self.fleet.has_untried(model, &waiting.request) {
            Some(Refusal::Draining)
        } else {
            self.wait(now, waiting)
        };
        let Some(refusal) = refusal else { return Submitted::Waiting };
        self.give_up(now, model, charge);
        Submitted::Refused(refusal)
    }

    /// Removes a waiting request; without effect if the request does not wait.
    pub fn cancel(&mut self, now: Moment, ticket: Ticket, decisions: &mut Vec<Decision>) {
        if let Some(waiting) = self.queue.leave(ticket) {
            self.give_up(now, waiting.model, waiting.charge);
            self.reach_verdict(&waiting.request, Sign::Nothing);
        }
        self.expire(now, decisions);
        self.debug_assert_invariants();
    }

    /// Ends a lease, and its request with it, and passes its slot on; `None` if the lease is not known or has ended
    /// before.
    pub fn end(&mut self, now: Moment, end: LeaseEnd, decisions: &mut Vec<Decision>) -> Option<EndedLease> {
        let held = self.end_request(now, &end, decisions)?;
        self.debug_assert_invariants();
        Some(held.ended(now, end))
    }

    /// Learns of new, changed and removed endpoints together, so that no request is refused that another of them can
    /// serve. Leases on removed endpoints go on until they end. The ids of removed endpoints must not be used again.
    pub fn change_endpoints(
        &mut self,
        now: Moment,
        updated: Vec<EndpointFacts>,
        removed: Vec<EndpointId>,
        decisions: &mut Vec<Decision>,
    ) {
        self.expire(now, decisions);
        let ids: Vec<EndpointId> = updated.iter().map(EndpointFacts::id).collect();
        updated.into_iter().for_each(|facts| self.fleet.update(facts));
        removed.into_iter().for_each(|id| self.fleet.remove(id));
        self.review(now, decisions);
        self.settle(now, None, false, decisions);
        for id in ids {
            self.serve_line(now, id, decisions);
        }
        self.serve_tripped(now, decisions);
        self.debug_assert_invariants();
    }

    /// Learns that an endpoint has answered a probe sent at `sent`; `is_sync` if the operator asked for the probe. This
    /// clears an older suspicion, and a skipped endpoint may be tried.
    pub fn endpoint_answered(
        &mut self,
        now: Moment,
        id: EndpointId,
        sent: Moment,
        is_sync: bool,
        decisions: &mut Vec<Decision>,
    ) {
        self.expire(now, decisions);
        self.fleet.probe_answered(now, id, sent, is_sync);
        self.serve_line(now, id, decisions);
        self.debug_assert_invariants();
    }

    /// Learns of the first byte of a good answer. If the lease is a trial, this closes the breaker of its endpoint. It
    /// also shows that an endpoint whose earlier attempt left it undecided is to blame.
    pub fn answer_began(&mut self, now: Moment, lease: LeaseId, decisions: &mut Vec<Decision>) {
        self.expire(now, decisions);
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let target = held.target.clone();
        self.verdicts.extend(held.undecided.take().map(|suspect| (suspect, Sign::Bad)));
        let has_turned = self.fleet.answer_began(now, lease, &target);
        self.settle(now, Some(target.id), has_turned, decisions);
        self.debug_assert_invariants();
    }

    /// Returns the endpoints whose breaker shows another state than at the last call, with their breakers.
    pub fn take_turned_breakers(&mut self) -> Vec<(Arc<Target>, Breaker)> {
        self.fleet.take_turned()
    }

    /// Replaces an endpoint's load report, which was received at `received`.
    pub fn report_load(&mut self, id: EndpointId, report: LoadReport, received: Moment) {
        self.fleet.report(id, report, received);
        self.debug_assert_invariants();
    }

    /// Refuses every waiting request, and from now on every new one. Running requests go on; if an endpoint fails, its
    /// request goes on at another endpoint that has a free slot.
    pub fn drain(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        self.draining = true;
        for ticket in self.in_order_of_arrival(|_| true) {
            if let Some(waiting) = self.queue.leave(ticket) {
                self.reach_verdict(&waiting.request, Sign::Nothing);
                self.refuse(now, (ticket, waiting.model, waiting.charge), Refusal::Draining, decisions);
            }
        }
        self.settle(now, None, false, decisions);
        self.debug_assert_invariants();
    }

    /// Ends every lease with the failure that Leaseway shuts down.
    pub fn end_all(&mut self, now: Moment) -> Vec<EndedLease> {
        let held: Vec<(LeaseId, Held)> = self.leases.drain().collect();
        for (lease, held) in &held {
            self.fleet.release(now, &held.target, held.attempt(*lease, now), Sign::Nothing);
            self.fleet.models_mut().give_back(held.model);
            self.end_charged_lease(held);
            self.settle_charge(now, held, &Outcome::Failed(Failure::ShutDown));
            if let Some(suspect) = &held.undecided {
                self.fleet.judge(now, suspect, Sign::Nothing);
            }
        }
        let cut_off = |lease| LeaseEnd::new(lease, Outcome::Failed(Failure::ShutDown));
        held.into_iter().map(|(lease, held)| held.ended(now, cut_off(lease))).collect()
    }

    /// Returns when [`Dispatcher::expire`] must be called next; `None` if nothing expires.
    pub fn next_due(&self) -> Option<Moment> {
        [self.queue.next_due(), self.fleet.next_trial()].into_iter().flatten().min()
    }

    /// Grants a lease. `has_waited` tells whether the request stood in the queue.
    fn grant(
        &mut self,
        now: Moment,
        endpoint: EndpointId,
        reason: GrantReason,
        waiting: WaitingRequest,
        has_waited: bool,
    ) -> Grant {
        let WaitingRequest { request, model: number, arrived, queued, charge, .. } = waiting;
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let (target, is_trial) = self.fleet.take(endpoint, lease);
        let (waited, queued) = if has_waited { (now.since(arrived), Some(queued)) } else { (Duration::ZERO, None) };
        let rate = charge.and_then(|charge| self.begin_charged_lease(now, charge));
        let charge = charge.map(|charge| Charge { is_sent: true, ..charge });
        let (model, granted) = (request.model.clone(), now);
        self.selections.total += 1;
        *self.selections.by_reason.entry(reason).or_default() += 1;
        self.recent_grants.add(RecentGrant { target: target.clone(), model, reason, granted, waited });
        let undecided = request.comparison.undecided().cloned();
        let reports_first_byte = is_trial || undecided.is_some();
        let held = Held { target: target.clone(), request, model: number, granted, waited, undecided, charge };
        self.leases.insert(lease, held);
        Grant { lease, target, granted, waited, queued, reports_first_byte, rate }
    }

    /// Grants the free slots of one endpoint to waiting requests. Only this endpoint can be chosen, because no request
    /// waits while another endpoint has a free slot for it.
    fn serve_line(&mut self, now: Moment, endpoint: EndpointId, decisions: &mut Vec<Decision>) {
        while let Some(waiting) = self.next_for(endpoint) {
            let ticket = waiting.ticket;
            let grant = self.grant(now, endpoint, GrantReason::OnlyCandidate, waiting, true);
            decisions.push(Decision::Grant(ticket, grant));
        }
    }

    /// Grants the free slots of endpoints whose breaker is not closed: a model may have no other endpoint, or a trial
    /// is allowed.
    fn serve_tripped(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        for id in self.fleet.tripped() {
            self.serve_line(now, id, decisions);
        }
    }

    fn next_for(&mut self, endpoint: EndpointId) -> Option<WaitingRequest> {
        if !self.queue.wants_slots() {
            return None;
        }
        self.queue.take_next(&self.fleet.free_slot(endpoint)?)
    }
}

impl Held {
    /// Returns the attempt whose lease ends now.
    fn attempt(&self, lease: LeaseId, now: Moment) -> Attempt {
        Attempt { lease, granted: self.granted, ended: now }
    }

    /// Returns the record of the lease's end, which also ends the request.
    fn ended(self, now: Moment, LeaseEnd { outcome, first_token, answered_model, .. }: LeaseEnd) -> EndedLease {
        EndedLease {
            request: self.request,
            target: self.target,
            outcome,
            is_final: true,
            granted: self.granted,
            duration: now.since(self.granted),
            first_token,
            answered_model,
            waited: self.waited,
        }
    }
}

#[cfg(test)]
mod tests;
