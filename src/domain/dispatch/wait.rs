//! How requests begin to wait, go on waiting elsewhere, and give up.

use std::collections::HashMap;
use std::time::Duration;

use super::Dispatcher;
use super::admission::{AdmissionDecision, WaitResult};
use super::decision::{Decision, Queued};
use super::fleet::Prospect;
use super::models::ModelNumber;
use super::rooms::Room;
use super::waiting::Waiting;
use crate::domain::ids::Ticket;
use crate::domain::request::{LeaseRequest, Refusal};
use crate::domain::time::Moment;

impl Dispatcher {
    /// Has a request wait that finds no free slot, or returns why it may not.
    pub(super) fn wait(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        if waiting.request.is_retry() {
            return self.wait_again(now, waiting);
        }
        match self.fleet.prospect(waiting.model) {
            Prospect::Unknown => Some(Refusal::ModelNotFound),
            Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
            Prospect::Loading => self.wait_for_loading(now, waiting),
            Prospect::Possible => self.wait_for_slot(now, waiting),
        }
    }

    /// Has a retry wait, whose admission was decided when it first came.
    fn wait_again(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        if !self.fleet.has_untried(waiting.model, &waiting.request) {
            return Some(self.nothing_untried(waiting.model, &waiting.request));
        }
        if waiting.deadline <= now {
            return Some(Refusal::QueueTimeout { waited: Duration::ZERO });
        }
        self.join(Room::Line, waiting, Moment::NEVER);
        None
    }

    fn wait_for_slot(&mut self, now: Moment, waiting: Waiting) -> Option<Refusal> {
        let (room, until) = match self.decide() {
            AdmissionDecision::Accept => (Room::Line, Moment::NEVER),
            AdmissionDecision::AcceptWithDelay(delay) => (Room::Delay, now.after(delay)),
            AdmissionDecision::Reject => return Some(self.rejection(waiting.model, &waiting.request)),
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

    /// Returns what a waiting request would be told now; `None` if it does not wait.
    pub fn outlook(&self, ticket: Ticket) -> Option<Queued> {
        let (room, &Waiting { ref request, model, .. }) = self.rooms.find(ticket)?;
        let (slots, models) = self.fleet.competition(model);
        match room {
            Room::Delay => Some(self.queued(Room::Line, model, request)),
            Room::Line | Room::WarmUp => {
                let position = self.rooms.room(room).position_of(ticket, &models)?;
                let estimated_wait = self.fleet.models().service_time(model).wait(position, slots);
                Some(Queued { position, estimated_wait })
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
            WaitResult::CapacityExceeded => Some(self.rejection(waiting.model, &waiting.request)),
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
    fn rejection(&self, model: ModelNumber, request: &LeaseRequest) -> Refusal {
        let estimated_wait = self.queued(Room::Line, model, request).estimated_wait;
        if self.waiting() >= self.rules.max_waiting {
            Refusal::QueueFull { estimated_wait }
        } else {
            Refusal::Overloaded { estimated_wait }
        }
    }

    /// Has a request wait in a room until `until`, or its deadline if that comes first.
    fn join(&mut self, room: Room, mut waiting: Waiting, until: Moment) {
        waiting.queued = self.queued(room, waiting.model, &waiting.request);
        let until = until.min(waiting.deadline);
        self.rooms.join(room, waiting, until);
    }

    /// Returns what a request is told that joins a room now. One that is delayed is told of the line, which it is for.
    fn queued(&self, room: Room, model: ModelNumber, request: &LeaseRequest) -> Queued {
        let (slots, models) = self.fleet.competition(model);
        let line = match room {
            Room::Line | Room::Delay => self.rooms.room(Room::Line),
            Room::WarmUp => self.rooms.room(Room::WarmUp),
        };
        let position = line.position_of_next(request, &models);
        Queued { position, estimated_wait: self.fleet.models().service_time(model).wait(position, slots) }
    }

    /// Refuses every waiting request whose deadline, or warm-up wait, is over, lets those join the line whose delay is, and
    /// has endpoints be tried that were skipped for long enough.
    pub fn expire(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        while let Some((room, ticket)) = self.rooms.due(now) {
            let Some(waiting) = self.rooms.leave(ticket) else { return };
            let model = waiting.model;
            let refusal = match room {
                Room::WarmUp => self.end_warm_up(now, waiting, WaitResult::Timeout),
                Room::Delay if waiting.deadline > now => {
                    self.join(Room::Line, waiting, Moment::NEVER);
                    None
                }
                Room::Line | Room::Delay => Some(Refusal::QueueTimeout { waited: now.since(waiting.arrived) }),
            };
            if let Some(refusal) = refusal {
                self.refuse(ticket, model, refusal, decisions);
            }
        }
        if self.fleet.next_trial().is_some_and(|trial| trial <= now) {
            self.fleet.begin_trials(now);
            self.serve_tripped(now, decisions);
        }
    }

    /// Moves those who wait to where they belong after endpoints have changed, and refuses those who now wait in vain.
    pub(super) fn review(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        let misplaced: HashMap<ModelNumber, Prospect> =
            self.rooms.misplaced(|model| self.fleet.prospect(model)).into_iter().collect();
        self.refuse_vain_retries(decisions);
        if misplaced.is_empty() {
            return;
        }
        for ticket in self.in_order_of_arrival(|waiting| misplaced.contains_key(&waiting.model)) {
            let Some(waiting) = self.rooms.leave(ticket) else { continue };
            let model = waiting.model;
            let refusal = match misplaced[&waiting.model] {
                Prospect::Possible => self.end_warm_up(now, waiting, WaitResult::Ready),
                Prospect::Loading => {
                    self.join(Room::WarmUp, waiting, now.after(self.rules.warm_up));
                    None
                }
                Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
                Prospect::Unknown => Some(Refusal::ModelNotFound),
            };
            if let Some(refusal) = refusal {
                self.refuse(ticket, model, refusal, decisions);
            }
        }
        // Without patience for loading the wait is over as soon as it begins.
        self.expire(now, decisions);
    }

    /// Refuses the retries that nobody is left for. They do not wait for an endpoint to be probed, to load or to be tried.
    pub(super) fn refuse_vain_retries(&mut self, decisions: &mut Vec<Decision>) {
        if self.rooms.retries() == 0 {
            return;
        }
        let is_vain =
            |waiting: &Waiting| waiting.request.is_retry() && !self.fleet.has_untried(waiting.model, &waiting.request);
        for ticket in self.in_order_of_arrival(is_vain) {
            let Some(waiting) = self.rooms.leave(ticket) else { continue };
            let refusal = self.nothing_untried(waiting.model, &waiting.request);
            self.refuse(ticket, waiting.model, refusal, decisions);
        }
    }

    /// Refuses a request that has left the line.
    pub(super) fn refuse(
        &mut self,
        ticket: Ticket,
        model: ModelNumber,
        refusal: Refusal,
        decisions: &mut Vec<Decision>,
    ) {
        self.fleet.models_mut().give_back(model);
        decisions.push(Decision::Refuse(ticket, refusal));
    }

    fn nothing_untried(&self, model: ModelNumber, request: &LeaseRequest) -> Refusal {
        Refusal::NothingUntried { estimated_wait: self.queued(Room::Line, model, request).estimated_wait }
    }

    /// Returns the tickets of the waiting requests that are `wanted`.
    pub(super) fn in_order_of_arrival(&self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let wanted = self.rooms.iter().filter(|waiting| wanted(waiting));
        let mut arrivals: Vec<_> = wanted.map(|waiting| (waiting.arrived, waiting.ticket)).collect();
        arrivals.sort_unstable();
        arrivals.into_iter().map(|(_, ticket)| ticket).collect()
    }
}
