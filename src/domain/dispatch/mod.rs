//! The Dispatcher: who holds a slot, who waits, who is next.
//!
//! Invariants, asserted by [`Dispatcher::assert_invariants`] after every step of the simulation and, in debug builds,
//! after every call:
//!
//! - an endpoint never has more leases than slots, unless its slots were lowered under what was in flight;
//! - every request is answered exactly once: granted, refused or cancelled;
//! - every lease ends exactly once, and unknown ends are ignored;
//! - the line is bounded and holds nothing expired;
//! - nobody waits while an online endpoint that serves the model has a free slot, nor in vain;
//! - clients are served round robin, the requests of one client for a model first come first served;
//! - no lease is granted on an endpoint that is gone or not online.

pub mod admission;
mod estimate;
mod model_queue;
mod model_set;
mod rooms;
mod slots;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::admission::{Admission, AdmissionDecision, Backpressure, WaitResult};
use self::estimate::ServiceTimes;
use self::rooms::{Room, Rooms};
use self::slots::{Prospect, Slots};
use self::waiting::Waiting;
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

/// How many may wait, how they are slowed down before the line is full, and what they may wait for.
#[derive(Clone, Copy, Debug)]
pub struct QueueRules {
    pub max_waiting: usize,
    pub admission: Admission,
    /// The longest wait for an endpoint that is still loading; zero for none.
    pub warm_up: Duration,
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
    rooms: Rooms,
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
            rooms: Rooms::default(),
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
            let queued = Queued { position: 1, estimated_wait: None };
            let waiting = Waiting { ticket, request, arrived: now, deadline, queued };
            self.wait(now, waiting).map_or(Submitted::Waiting, Submitted::Refused)
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
        self.review(now, decisions);
        self.serve_line(now, id, decisions);
        self.debug_assert_invariants();
    }

    /// Learns that an endpoint is gone. Its leases go on until they end; its id must not be used again.
    pub fn remove_endpoint(&mut self, now: Moment, id: EndpointId, decisions: &mut Vec<Decision>) {
        self.expire(now, decisions);
        self.slots.remove(id);
        self.review(now, decisions);
        self.debug_assert_invariants();
    }

    /// Refuses every waiting request whose deadline, or warm-up wait, is over, and lets those join the line whose delay is.
    pub fn expire(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        while let Some((room, ticket)) = self.rooms.due(now) {
            let Some(waiting) = self.leave(ticket) else { return };
            let refusal = match room {
                Room::WarmUp => self.end_warm_up(now, waiting, WaitResult::Timeout),
                Room::Delay if waiting.deadline > now => {
                    self.join(Room::Line, waiting, Moment::NEVER);
                    None
                }
                Room::Line | Room::Delay => Some(Refusal::QueueTimeout { waited: now.since(waiting.arrived) }),
            };
            decisions.extend(refusal.map(|refusal| Decision::Refuse(ticket, refusal)));
        }
    }

    /// Refuses every waiting request and from now on every new one.
    pub fn drain(&mut self, decisions: &mut Vec<Decision>) {
        self.draining = true;
        for ticket in self.in_order_of_arrival(|_| true) {
            self.leave(ticket);
            decisions.push(Decision::Refuse(ticket, Refusal::Draining));
        }
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
        self.rooms.next_due()
    }

    /// Returns how many requests wait, in the line or before it.
    pub fn waiting(&self) -> usize {
        self.rooms.len()
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
        self.rooms.assert_consistent();
        assert!(self.waiting() <= self.rules.max_waiting, "the line is bounded");
        assert!(!self.draining || self.waiting() == 0, "nobody waits while draining");
        assert!(self.rooms.misplaced(|model| self.slots.prospect(model)).is_empty(), "nobody waits in vain");
        for waiting in self.rooms.iter() {
            assert!(self.slots.choose(&waiting.request.model).is_none(), "nobody waits while a capable slot is free");
        }
        let mut held: HashMap<EndpointId, u32> = HashMap::new();
        for lease in self.leases.values() {
            *held.entry(lease.endpoint).or_default() += 1;
        }
        for (id, in_flight) in self.slots.in_flight() {
            assert_eq!(in_flight, held.get(&id).copied().unwrap_or(0), "slots in flight are the leases held");
        }
    }

    /// Has a request wait that finds no free slot, or returns why it may not.
    fn wait(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        match self.slots.prospect(&waiting.request.model) {
            Prospect::Unknown => Some(Refusal::ModelNotFound),
            Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
            Prospect::Loading => self.wait_for_loading(now, waiting),
            Prospect::Possible => self.wait_for_slot(now, waiting),
        }
    }

    fn wait_for_slot(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        let (room, until) = match self.decide() {
            AdmissionDecision::Accept => (Room::Line, Moment::NEVER),
            AdmissionDecision::AcceptWithDelay(delay) => (Room::Delay, now.after(delay)),
            AdmissionDecision::Reject => return Some(self.rejection(&waiting.request)),
        };
        if waiting.deadline <= now {
            return Some(Refusal::QueueTimeout { waited: Duration::ZERO });
        }
        self.join(room, waiting, until);
        None
    }

    fn wait_for_loading(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        let until = now.after(self.rules.warm_up);
        match self.decide() {
            AdmissionDecision::Reject => self.end_warm_up(now, waiting, WaitResult::CapacityExceeded),
            _ if until.min(waiting.deadline) <= now => self.end_warm_up(now, waiting, WaitResult::Timeout),
            // Its delay is over before its wait is.
            AdmissionDecision::Accept | AdmissionDecision::AcceptWithDelay(_) => {
                self.join(Room::WarmUp, waiting, until);
                None
            }
        }
    }

    /// Ends a request's wait for an endpoint that is loading: it joins the line, or is refused.
    fn end_warm_up(&mut self, now: Moment, waiting: Waiting, result: WaitResult) -> Option<Refusal> {
        match result {
            WaitResult::Ready => {
                self.join(Room::Line, waiting, Moment::NEVER);
                None
            }
            WaitResult::Timeout if waiting.deadline <= now => {
                Some(Refusal::QueueTimeout { waited: now.since(waiting.arrived) })
            }
            WaitResult::Timeout => Some(Refusal::WarmingUp),
            WaitResult::CapacityExceeded => Some(self.rejection(&waiting.request)),
        }
    }

    /// Decides whether one more may wait.
    fn decide(&self) -> AdmissionDecision {
        let (waiting, max_waiting) = (self.waiting(), self.rules.max_waiting);
        if waiting >= max_waiting {
            return AdmissionDecision::Reject;
        }
        self.rules.admission.decide(waiting, max_waiting)
    }

    /// Returns how a request is refused because of all those who wait.
    fn rejection(&self, request: &LeaseRequest) -> Refusal {
        let estimated_wait = self.queued(Room::Line, request).estimated_wait;
        if self.waiting() >= self.rules.max_waiting {
            Refusal::QueueFull { estimated_wait }
        } else {
            Refusal::Overloaded { estimated_wait }
        }
    }

    /// Has a request wait in a room until `until`, or its deadline if that comes first.
    fn join(&mut self, room: Room, mut waiting: Waiting, until: Moment) {
        waiting.queued = self.queued(room, &waiting.request);
        let until = until.min(waiting.deadline);
        self.rooms.join(room, self.slots.numbers(), waiting, until);
    }

    /// Returns what a request is told that joins a room now. One that is delayed is told of the line, which it is for.
    fn queued(&self, room: Room, request: &LeaseRequest) -> Queued {
        let (slots, models) = self.slots.competition(&request.model);
        let line = match room {
            Room::Line | Room::Delay => self.rooms.room(Room::Line),
            Room::WarmUp => self.rooms.room(Room::WarmUp),
        };
        let position = line.position_of_next(&request.client, &models);
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
        self.rooms.take_next(self.slots.numbers(), &models)
    }

    /// Moves those who wait to where they belong after endpoints have changed, and refuses those who now wait in vain.
    fn review(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        let misplaced: HashMap<ModelId, Prospect> =
            self.rooms.misplaced(|model| self.slots.prospect(model)).into_iter().collect();
        if misplaced.is_empty() {
            return;
        }
        for ticket in self.in_order_of_arrival(|waiting| misplaced.contains_key(&waiting.request.model)) {
            let Some(waiting) = self.leave(ticket) else { continue };
            let refusal = match misplaced[&waiting.request.model] {
                Prospect::Possible => self.end_warm_up(now, waiting, WaitResult::Ready),
                Prospect::Loading => {
                    self.join(Room::WarmUp, waiting, now.after(self.rules.warm_up));
                    None
                }
                Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
                Prospect::Unknown => Some(Refusal::ModelNotFound),
            };
            decisions.extend(refusal.map(|refusal| Decision::Refuse(ticket, refusal)));
        }
        // Without patience for loading the wait is over as soon as it begins.
        self.expire(now, decisions);
    }

    /// Returns the tickets of the waiting requests that are `wanted`.
    fn in_order_of_arrival(&self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let wanted = self.rooms.iter().filter(|waiting| wanted(waiting));
        let mut arrivals: Vec<_> = wanted.map(|waiting| (waiting.arrived, waiting.ticket)).collect();
        arrivals.sort_unstable();
        arrivals.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Takes out the request of this ticket, if it waits.
    fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        self.rooms.leave(self.slots.numbers(), ticket)
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
