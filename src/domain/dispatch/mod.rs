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

pub mod admission;
mod estimate;
mod model_queue;
mod model_set;
mod slots;
mod waiting;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::admission::{Admission, AdmissionDecision, Backpressure};
use self::estimate::ServiceTimes;
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
    /// `None` for a request that did not wait.
    pub queued: Option<Queued>,
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

/// How many may wait, and how they are slowed down before the line is full.
#[derive(Clone, Copy, Debug)]
pub struct QueueRules {
    pub max_waiting: usize,
    pub admission: Admission,
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
    /// Those whose delay has not ended. They count as waiting, but are served only where the line has nobody.
    delayed: WaitingLine,
    /// When delays end; of those who have left, too, until then.
    delay_ends: BTreeSet<(Moment, Ticket)>,
    leases: HashMap<LeaseId, Held>,
    service_times: ServiceTimes,
    next_lease: u64,
    rules: QueueRules,
    draining: bool,
}

impl Dispatcher {
    /// Creates a dispatcher without endpoints.
    pub fn new(rules: QueueRules) -> Self {
        Self {
            slots: Slots::default(),
            line: WaitingLine::default(),
            delayed: WaitingLine::default(),
            delay_ends: BTreeSet::new(),
            leases: HashMap::new(),
            service_times: ServiceTimes::default(),
            next_lease: 0,
            rules,
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
            Submitted::Granted(self.grant(now, endpoint, request, Duration::ZERO, None))
        } else {
            match self.admit(now, &request, deadline) {
                Err(refusal) => Submitted::Refused(refusal),
                Ok(delay) => {
                    let queued = self.queued(&request);
                    let numbers = self.slots.numbers();
                    if delay.is_zero() {
                        self.line.join(numbers, ticket, request, now, deadline, queued);
                    } else {
                        self.delayed.join(numbers, ticket, request, now, deadline, queued);
                        self.delay_ends.insert((now.after(delay), ticket));
                    }
                    Submitted::Waiting
                }
            }
        };
        self.debug_assert_invariants();
        submitted
    }

    /// Takes a waiting request out of the line; without effect if it does not wait.
    pub fn cancel(&mut self, now: Moment, ticket: Ticket, decisions: &mut Vec<Decision>) {
        self.leave(ticket);
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
        if let Outcome::Succeeded { .. } = outcome {
            self.service_times.record(&held.request.model, now.since(held.granted));
        }
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

    /// Refuses every waiting request whose deadline has come, and lets those join the line whose delay has ended.
    pub fn expire(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        while let Some(ticket) = self.line.expired(now).or_else(|| self.delayed.expired(now)) {
            let Some(waiting) = self.leave(ticket) else { return };
            let waited = now.since(waiting.arrived);
            decisions.push(Decision::Refuse(waiting.ticket, Refusal::QueueTimeout { waited }));
        }
        while let Some((_, ticket)) = self.delay_ends.first().copied().filter(|(end, _)| *end <= now) {
            self.delay_ends.pop_first();
            if let Some(waiting) = self.delayed.leave(self.slots.numbers(), ticket) {
                let Waiting { request, arrived, deadline, .. } = waiting;
                let queued = self.queued(&request);
                self.line.join(self.slots.numbers(), ticket, request, arrived, deadline, queued);
            }
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
        let delay_end = self.delay_ends.first().map(|(end, _)| *end);
        [self.line.next_deadline(), self.delayed.next_deadline(), delay_end].into_iter().flatten().min()
    }

    /// Returns how many requests wait, delayed ones included.
    pub fn waiting(&self) -> usize {
        self.line.len() + self.delayed.len()
    }

    /// Returns how many leases are held.
    pub fn active(&self) -> usize {
        self.leases.len()
    }

    /// Sums up what newcomers have to expect who find no free slot.
    pub fn backpressure(&self) -> Backpressure {
        self.rules.admission.backpressure(self.waiting(), self.rules.max_waiting)
    }

    /// Returns how many requests may wait.
    pub fn max_waiting(&self) -> usize {
        self.rules.max_waiting
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
        self.delayed.assert_consistent();
        assert!(self.waiting() <= self.rules.max_waiting, "the line is bounded");
        assert!(!self.draining || self.waiting() == 0, "nobody waits while draining");
        for model in self.line.models().chain(self.delayed.models()) {
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

    /// Decides whether a request that finds no free slot may wait, and how long it is delayed before it joins the line.
    fn admit(&self, now: Moment, request: &LeaseRequest, deadline: Moment) -> Result<Duration, Refusal> {
        match self.slots.prospect(&request.model) {
            Prospect::Unknown => return Err(Refusal::ModelNotFound),
            Prospect::NothingOnline => return Err(Refusal::NoEndpointOnline),
            Prospect::Possible => {}
        }
        let waiting = self.waiting();
        if waiting >= self.rules.max_waiting {
            return Err(Refusal::QueueFull { estimated_wait: self.queued(request).estimated_wait });
        }
        let delay = match self.rules.admission.decide(waiting, self.rules.max_waiting) {
            AdmissionDecision::Reject => {
                return Err(Refusal::Overloaded { estimated_wait: self.queued(request).estimated_wait });
            }
            AdmissionDecision::Accept => Duration::ZERO,
            AdmissionDecision::AcceptWithDelay(delay) => delay,
        };
        if deadline <= now {
            return Err(Refusal::QueueTimeout { waited: Duration::ZERO });
        }
        Ok(delay)
    }

    /// Returns what a request is told that joins the line now.
    fn queued(&self, request: &LeaseRequest) -> Queued {
        let (slots, models) = self.slots.competition(&request.model);
        let position = self.line.position_of_next(&request.client, &models);
        Queued { position, estimated_wait: self.service_times.wait(&request.model, position, slots) }
    }

    fn grant(
        &mut self,
        now: Moment,
        endpoint: EndpointId,
        request: LeaseRequest,
        waited: Duration,
        queued: Option<Queued>,
    ) -> Grant {
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let target = self.slots.take(endpoint).target.clone();
        self.leases.insert(lease, Held { endpoint, request, granted: now, waited });
        Grant { lease, target, waited, queued }
    }

    /// Grants the free slots of one endpoint to those who wait for them.
    fn serve_line(&mut self, now: Moment, endpoint: EndpointId, decisions: &mut Vec<Decision>) {
        while let Some(waiting) = self.next_for(endpoint) {
            let waited = now.since(waiting.arrived);
            let grant = self.grant(now, endpoint, waiting.request, waited, Some(waiting.queued));
            decisions.push(Decision::Grant(waiting.ticket, grant));
        }
    }

    fn next_for(&mut self, endpoint: EndpointId) -> Option<Waiting> {
        let models = self.slots.free_models(endpoint)?.clone();
        let from_line = self.line.take_next(self.slots.numbers(), &models);
        from_line.or_else(|| self.delayed.take_next(self.slots.numbers(), &models))
    }

    /// Refuses those who wait for a model that nobody can serve any more.
    fn refuse_hopeless(&mut self, decisions: &mut Vec<Decision>) {
        let refusal = |model| match self.slots.prospect(model) {
            Prospect::Possible => None,
            Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
            Prospect::Unknown => Some(Refusal::ModelNotFound),
        };
        let models = self.line.models().chain(self.delayed.models());
        let hopeless: HashMap<ModelId, Refusal> =
            models.filter_map(|model| Some((model.clone(), refusal(model)?))).collect();
        if !hopeless.is_empty() {
            self.refuse_where(|request| hopeless.get(&request.model).cloned(), decisions);
        }
    }

    /// Refuses those who wait and to whom `refusal` applies, in the order of their arrival.
    fn refuse_where(&mut self, refusal: impl Fn(&LeaseRequest) -> Option<Refusal>, decisions: &mut Vec<Decision>) {
        let applies = |waiting: &Waiting| Some((waiting.arrived, waiting.ticket, refusal(&waiting.request)?));
        let mut refused: Vec<_> = self.line.iter().chain(self.delayed.iter()).filter_map(applies).collect();
        refused.sort_unstable_by_key(|(arrived, ticket, _)| (*arrived, *ticket));
        for (_, ticket, refusal) in refused {
            self.leave(ticket);
            decisions.push(Decision::Refuse(ticket, refusal));
        }
    }

    /// Takes out the request of this ticket, if it waits.
    fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let numbers = self.slots.numbers();
        self.line.leave(numbers, ticket).or_else(|| self.delayed.leave(numbers, ticket))
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
