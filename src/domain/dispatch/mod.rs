//! The Dispatcher: who holds a slot, who waits, who is next.
//!
//! Invariants, asserted by [`Dispatcher::assert_invariants`] after every step of the simulation and, in debug builds,
//! after every call:
//!
//! - an endpoint never has more leases than slots, unless its slots were lowered under what was in flight;
//! - every request is answered exactly once: granted, refused or cancelled;
//! - every lease ends exactly once, and unknown ends are ignored;
//! - the line is bounded and holds nothing expired;
//! - nobody waits while an online endpoint that serves the model has a free slot;
//! - clients are served round robin, the requests of one client for a model first come first served;
//! - no lease is granted on an endpoint that is gone or not online.

mod model_queue;
mod model_set;
mod slots;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::slots::{Prospect, Slots};
use self::waiting::{Waiting, WaitingLine};
use super::endpoint::{EndpointFacts, Target};
use super::ids::{EndpointId, LeaseId, ModelId, Ticket};
use super::request::{Failure, FinishedRequest, LeaseRequest, Outcome, Refusal};
use super::time::Moment;

/// The right to use one slot of one endpoint.
#[derive(Clone, Debug)]
pub struct Grant {
    pub lease: LeaseId,
    pub target: Arc<Target>,
    /// From arrival to grant; zero for a request that did not wait.
    pub waited: Duration,
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

struct Held {
    endpoint: EndpointId,
    request: LeaseRequest,
    granted: Moment,
    waited: Duration,
}

/// Grants leases on endpoints and keeps the line of those who wait.
///
/// Every method that takes `now` first refuses what has expired. Decisions about waiting requests are pushed onto
/// `decisions` in the order they were made.
pub struct Dispatcher {
    slots: Slots,
    line: WaitingLine,
    leases: HashMap<LeaseId, Held>,
    next_lease: u64,
    max_waiting: usize,
    draining: bool,
}

impl Dispatcher {
    /// Creates a dispatcher without endpoints that lets at most `max_waiting` requests wait.
    pub fn new(max_waiting: usize) -> Self {
        Self {
            slots: Slots::default(),
            line: WaitingLine::default(),
            leases: HashMap::new(),
            next_lease: 0,
            max_waiting,
            draining: false,
        }
    }

    /// Decides on a new request: a lease at once, a place in the line until `deadline`, or a refusal.
    pub fn submit(
        &mut self,
        now: Moment,
        ticket: Ticket,
        request: LeaseRequest,
        deadline: Moment,
        decisions: &mut Vec<Decision>,
    ) -> Submitted {
        self.expire(now, decisions);
        let submitted = if self.draining {
            Submitted::Refused(Refusal::Draining)
        } else if let Some(endpoint) = self.slots.choose(&request.model) {
            Submitted::Granted(self.grant(now, endpoint, request, Duration::ZERO))
        } else {
            match self.refusal_on_arrival(now, &request, deadline) {
                Some(refusal) => Submitted::Refused(refusal),
                None => {
                    self.line.join(self.slots.numbers(), ticket, request, now, deadline);
                    Submitted::Waiting
                }
            }
        };
        self.debug_assert_invariants();
        submitted
    }

    /// Takes a waiting request out of the line; without effect if it does not wait.
    pub fn cancel(&mut self, now: Moment, ticket: Ticket, decisions: &mut Vec<Decision>) {
        self.line.leave(self.slots.numbers(), ticket);
        self.expire(now, decisions);
        self.debug_assert_invariants();
    }

    /// Ends a lease and passes its slot on; `None` if the lease is not known or has ended before.
    pub fn end(
        &mut self,
        now: Moment,
        lease: LeaseId,
        outcome: Outcome,
        decisions: &mut Vec<Decision>,
    ) -> Option<FinishedRequest> {
        self.expire(now, decisions);
        let held = self.leases.remove(&lease)?;
        self.slots.release(held.endpoint);
        self.serve_line(now, held.endpoint, decisions);
        self.debug_assert_invariants();
        Some(held.finished(now, outcome))
    }

    /// Learns of a new or changed endpoint.
    pub fn update_endpoint(&mut self, now: Moment, facts: EndpointFacts, decisions: &mut Vec<Decision>) {
        self.expire(now, decisions);
        let id = facts.id();
        self.slots.update(facts);
        self.serve_line(now, id, decisions);
        self.refuse_hopeless(decisions);
        self.debug_assert_invariants();
    }

    /// Learns that an endpoint is gone. Its leases go on until they end; its id must not be used again.
    pub fn remove_endpoint(&mut self, now: Moment, id: EndpointId, decisions: &mut Vec<Decision>) {
        self.expire(now, decisions);
        self.slots.remove(id);
        self.refuse_hopeless(decisions);
        self.debug_assert_invariants();
    }

    /// Refuses every waiting request whose deadline has come.
    pub fn expire(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        while let Some(ticket) = self.line.expired(now) {
            let Some(waiting) = self.line.leave(self.slots.numbers(), ticket) else { return };
            let waited = now.since(waiting.arrived);
            decisions.push(Decision::Refuse(waiting.ticket, Refusal::QueueTimeout { waited }));
        }
    }

    /// Refuses every waiting request and from now on every new one.
    pub fn drain(&mut self, decisions: &mut Vec<Decision>) {
        self.draining = true;
        self.refuse_where(|_| Some(Refusal::Draining), decisions);
        self.debug_assert_invariants();
    }

    /// Ends every lease as cut off by shutdown.
    pub fn end_all(&mut self, now: Moment) -> Vec<FinishedRequest> {
        let held: Vec<Held> = self.leases.drain().map(|(_, held)| held).collect();
        for lease in &held {
            self.slots.release(lease.endpoint);
        }
        held.into_iter().map(|held| held.finished(now, Outcome::Failed(Failure::ShutDown))).collect()
    }

    /// Returns when [`Dispatcher::expire`] next has something to do.
    pub fn next_due(&self) -> Option<Moment> {
        self.line.next_deadline()
    }

    /// Returns how many requests wait.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Returns how many leases are held.
    pub fn active(&self) -> usize {
        self.leases.len()
    }

    /// Returns the slots in flight of every endpoint.
    pub fn in_flight(&self) -> impl Iterator<Item = (EndpointId, u32)> {
        self.slots.in_flight()
    }

    /// Checks the invariants listed at the top of this file.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_invariants(&self) {
        self.slots.assert_consistent();
        self.line.assert_consistent();
        assert!(self.line.len() <= self.max_waiting, "the line is bounded");
        assert!(!self.draining || self.line.is_empty(), "nobody waits while draining");
        for model in self.line.models() {
            assert!(self.slots.choose(model).is_none(), "nobody waits while a capable slot is free");
            assert_eq!(self.slots.prospect(model), Prospect::Possible, "nobody waits in vain");
        }
        let mut held: HashMap<EndpointId, u32> = HashMap::new();
        for lease in self.leases.values() {
            *held.entry(lease.endpoint).or_default() += 1;
        }
        for (id, in_flight) in self.slots.in_flight() {
            assert_eq!(in_flight, held.get(&id).copied().unwrap_or(0), "slots in flight are the leases held");
        }
    }

    fn refusal_on_arrival(&self, now: Moment, request: &LeaseRequest, deadline: Moment) -> Option<Refusal> {
        match self.slots.prospect(&request.model) {
            Prospect::Unknown => return Some(Refusal::ModelNotFound),
            Prospect::NothingOnline => return Some(Refusal::NoEndpointOnline),
            Prospect::Possible => {}
        }
        if self.line.len() >= self.max_waiting {
            Some(Refusal::QueueFull)
        } else if deadline <= now {
            Some(Refusal::QueueTimeout { waited: Duration::ZERO })
        } else {
            None
        }
    }

    fn grant(&mut self, now: Moment, endpoint: EndpointId, request: LeaseRequest, waited: Duration) -> Grant {
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let target = self.slots.take(endpoint).target.clone();
        self.leases.insert(lease, Held { endpoint, request, granted: now, waited });
        Grant { lease, target, waited }
    }

    /// Grants the free slots of one endpoint to those who wait for them.
    fn serve_line(&mut self, now: Moment, endpoint: EndpointId, decisions: &mut Vec<Decision>) {
        while let Some(waiting) = self.next_for(endpoint) {
            let waited = now.since(waiting.arrived);
            let grant = self.grant(now, endpoint, waiting.request, waited);
            decisions.push(Decision::Grant(waiting.ticket, grant));
        }
    }

    fn next_for(&mut self, endpoint: EndpointId) -> Option<Waiting> {
        let models = self.slots.free_models(endpoint)?.clone();
        self.line.take_next(self.slots.numbers(), &models)
    }

    /// Refuses those who wait for a model that nobody can serve any more.
    fn refuse_hopeless(&mut self, decisions: &mut Vec<Decision>) {
        let refusal = |model| match self.slots.prospect(model) {
            Prospect::Possible => None,
            Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
            Prospect::Unknown => Some(Refusal::ModelNotFound),
        };
        let hopeless: HashMap<ModelId, Refusal> =
            self.line.models().filter_map(|model| Some((model.clone(), refusal(model)?))).collect();
        if !hopeless.is_empty() {
            self.refuse_where(|request| hopeless.get(&request.model).cloned(), decisions);
        }
    }

    /// Refuses those who wait and to whom `refusal` applies, in the order of their arrival.
    fn refuse_where(&mut self, refusal: impl Fn(&LeaseRequest) -> Option<Refusal>, decisions: &mut Vec<Decision>) {
        let applies = |waiting: &Waiting| Some((waiting.arrived, waiting.ticket, refusal(&waiting.request)?));
        let mut refused: Vec<_> = self.line.iter().filter_map(applies).collect();
        refused.sort_unstable_by_key(|(arrived, ticket, _)| (*arrived, *ticket));
        for (_, ticket, refusal) in refused {
            self.line.leave(self.slots.numbers(), ticket);
            decisions.push(Decision::Refuse(ticket, refusal));
        }
    }

    fn debug_assert_invariants(&self) {
        if cfg!(debug_assertions) {
            self.assert_invariants();
        }
    }
}

impl Held {
    fn finished(self, now: Moment, outcome: Outcome) -> FinishedRequest {
        FinishedRequest {
            endpoint: self.endpoint,
            model: self.request.model,
            api_kind: self.request.api_kind,
            outcome,
            duration: now.since(self.granted),
            waited: self.waited,
        }
    }
}

#[cfg(test)]
mod tests;
