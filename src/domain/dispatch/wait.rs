//! How requests begin to wait, move from one stage of waiting to another, and stop waiting.

use std::collections::HashMap;
use std::time::Duration;

use super::Dispatcher;
use super::admission::{AdmissionDecision, WaitResult};
use super::decision::{Decision, Queued};
use super::fleet::Prospect;
use super::limits::{AccountNumber, Charge};
use super::line::WaitingRequest;
use super::models::ModelNumber;
use super::queue::Stage;
use crate::domain::blame::Sign;
use crate::domain::ids::Ticket;
use crate::domain::request::{LeaseRequest, Refusal};
use crate::domain::time::Moment;

impl Dispatcher {
    /// Puts a request that found no free slot into the queue, or returns why it cannot wait.
    pub(super) fn wait(&mut self, now: Moment, waiting: WaitingRequest) -> Option<Refusal> {
        if waiting.request.is_retry() {
            return self.wait_again(now, waiting);
        }
        if let Some(refusal) = self.fleet.unserved(waiting.model, &waiting.request) {
            return Some(refusal);
        }
        match self.fleet.prospect(waiting.model) {
            Prospect::Unknown => Some(Refusal::ModelNotFound),
            Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
            Prospect::Loading => self.wait_for_loading(now, waiting),
            Prospect::Possible => self.wait_for_slot(now, waiting),
        }
    }

    /// Puts a retry into the line without an admission decision: the request was admitted when it came.
    fn wait_again(&mut self, now: Moment, waiting: WaitingRequest) -> Option<Refusal> {
        if !self.fleet.has_untried(waiting.model, &waiting.request) {
            return Some(self.nothing_untried(waiting.model, &waiting.request, waiting.account()));
        }
        if waiting.deadline <= now {
            return Some(Refusal::QueueTimeout { waited: Duration::ZERO });
        }
        self.join(Stage::Line, waiting, Moment::NEVER);
        None
    }

    fn wait_for_slot(&mut self, now: Moment, waiting: WaitingRequest) -> Option<Refusal> {
        let (stage, until) = match self.decide(&waiting) {
            AdmissionDecision::Accept => (Stage::Line, Moment::NEVER),
            AdmissionDecision::AcceptWithDelay(delay) => (Stage::Delay, now.after(delay)),
            AdmissionDecision::Reject => return Some(self.rejection(&waiting)),
        };
        if waiting.deadline <= now {
            return Some(Refusal::QueueTimeout { waited: Duration::ZERO });
        }
        self.join(stage, waiting, until);
        None
    }

    fn wait_for_loading(&mut self, now: Moment, waiting: WaitingRequest) -> Option<Refusal> {
        let until = now.after(self.rules.warm_up);
        match self.decide(&waiting) {
            AdmissionDecision::Reject => self.end_warm_up(now, waiting, WaitResult::CapacityExceeded),
            _ if until.min(waiting.deadline) <= now => self.end_warm_up(now, waiting, WaitResult::Timeout),
            // A delay has no effect here, because it ends before the wait for loading ends.
            AdmissionDecision::Accept | AdmissionDecision::AcceptWithDelay(_) => {
                self.join(Stage::WarmUp, waiting, until);
                None
            }
        }
    }

    /// Returns a waiting request's present place and estimated wait; `None` if the request does not wait.
    pub fn outlook(&self, ticket: Ticket) -> Option<Queued> {
        let (stage, waiting) = self.queue.find(ticket)?;
        let model = waiting.model;
        match stage {
            Stage::Delay => Some(self.queued(Stage::Line, model, &waiting.request, waiting.account())),
            Stage::Line | Stage::WarmUp => {
                let (_, models) = self.fleet.competition(model);
                let position = self.queue.stage(stage).position_of(ticket, &models)?;
                Some(Queued { position, estimated_wait: self.estimated_wait(model, position, waiting.account()) })
            }
        }
    }

    /// Ends a request's wait for an endpoint that is loading: it joins the line, or is refused.
    fn end_warm_up(&mut self, now: Moment, waiting: WaitingRequest, result: WaitResult) -> Option<Refusal> {
        match result {
            WaitResult::Ready => {
                self.join(Stage::Line, waiting, Moment::NEVER);
                None
            }
            WaitResult::Timeout if waiting.deadline <= now => {
                Some(Refusal::QueueTimeout { waited: now.since(waiting.arrived) })
            }
            WaitResult::Timeout => Some(Refusal::WarmingUp),
            WaitResult::CapacityExceeded => Some(self.rejection(&waiting)),
        }
    }

    /// Decides whether one more request, which does not wait yet, may wait.
    fn decide(&self, request: &WaitingRequest) -> AdmissionDecision {
        let (waiting, max_waiting) = (self.waiting(), self.rules.max_waiting);
        if waiting >= max_waiting || self.max_waiting_reached(request).is_some() {
            return AdmissionDecision::Reject;
        }
        self.rules.admission.decide(waiting, max_waiting)
    }

    /// Returns how many requests of a request's key may wait if so many wait already; `None` if fewer do, or without a
    /// key.
    fn max_waiting_reached(&self, request: &WaitingRequest) -> Option<u64> {
        let account = request.account()?;
        let max_waiting = self.limits.of(account).max_waiting?;
        (self.queue.waiting_of(account) as u64 >= max_waiting).then_some(max_waiting)
    }

    /// Returns the refusal of a request for which too many requests wait already.
    fn rejection(&self, waiting: &WaitingRequest) -> Refusal {
        let queued = self.queued(Stage::Line, waiting.model, &waiting.request, waiting.account());
        let estimated_wait = queued.estimated_wait;
        if let Some(max_waiting) = self.max_waiting_reached(waiting) {
            Refusal::KeyQueueFull { max_waiting, estimated_wait }
        } else if self.waiting() >= self.rules.max_waiting {
            Refusal::QueueFull { estimated_wait }
        } else {
            Refusal::Overloaded { estimated_wait }
        }
    }

    /// Puts a request into a stage until `until`, or until its deadline if the deadline is earlier.
    fn join(&mut self, stage: Stage, mut waiting: WaitingRequest, until: Moment) {
        waiting.queued = self.queued(stage, waiting.model, &waiting.request, waiting.account());
        let until = until.min(waiting.deadline);
        let is_aside = waiting.account().is_some_and(|account| self.limits.is_at_limit(account));
        self.queue.join(stage, waiting, until, is_aside);
    }

    /// Returns what is told to a request that joins a stage now. A delayed request is told its place in the line.
    fn queued(
        &self,
        stage: Stage,
        model: ModelNumber,
        request: &LeaseRequest,
        account: Option<AccountNumber>,
    ) -> Queued {
        let (_, models) = self.fleet.competition(model);
        let line = match stage {
            Stage::Line | Stage::Delay => self.queue.stage(Stage::Line),
            Stage::WarmUp => self.queue.stage(Stage::WarmUp),
        };
        let aside = account.filter(|account| self.limits.is_at_limit(*account));
        let position = line.position_of_next(request, &models, aside);
        Queued { position, estimated_wait: self.estimated_wait(model, position, account) }
    }

    /// Estimates the wait of the request at a position. A request whose key is at its limit waits for the leases of the
    /// key, of which there are no more than the limit.
    fn estimated_wait(&self, model: ModelNumber, position: usize, account: Option<AccountNumber>) -> Option<Duration> {
        let (slots, _) = self.fleet.competition(model);
        let aside = account.filter(|account| self.limits.is_at_limit(*account));
        let max = aside.and_then(|account| self.limits.of(account).max_concurrency);
        self.fleet.models().service_time(model).wait(position, max.map_or(slots, |max| slots.min(max)))
    }

    /// Refuses every waiting request whose deadline or wait for loading is over, moves every request whose delay is
    /// over into the line, and begins the trials of endpoints that were skipped for long enough.
    pub fn expire(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        while let Some((stage, ticket)) = self.queue.due(now) {
            let Some(waiting) = self.queue.leave(ticket) else { return };
            let left = (ticket, waiting.model, waiting.charge);
            let refusal = match stage {
                Stage::WarmUp => self.end_warm_up(now, waiting, WaitResult::Timeout),
                Stage::Delay if waiting.deadline > now => {
                    self.join(Stage::Line, waiting, Moment::NEVER);
                    None
                }
                Stage::Line | Stage::Delay => {
                    self.reach_verdict(&waiting.request, Sign::Nothing);
                    Some(Refusal::QueueTimeout { waited: now.since(waiting.arrived) })
                }
            };
            if let Some(refusal) = refusal {
                self.refuse(now, left, refusal, decisions);
            }
        }
        if self.fleet.next_trial().is_some_and(|trial| trial <= now) {
            self.fleet.begin_trials(now);
            self.serve_tripped(now, decisions);
        }
        self.settle(now, None, false, decisions);
    }

    /// Moves waiting requests to the right stage after endpoints have changed, and refuses requests that no endpoint
    /// can serve any more.
    pub(super) fn review(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        let misplaced: HashMap<ModelNumber, Prospect> =
            self.queue.misplaced(|model| self.fleet.prospect(model)).into_iter().collect();
        self.refuse_vain(now, decisions);
        if misplaced.is_empty() {
            return;
        }
        for ticket in self.in_order_of_arrival(|waiting| misplaced.contains_key(&waiting.model)) {
            let Some(waiting) = self.queue.leave(ticket) else { continue };
            let left = (ticket, waiting.model, waiting.charge);
            let refusal = match misplaced[&waiting.model] {
                Prospect::Possible => self.end_warm_up(now, waiting, WaitResult::Ready),
                Prospect::Loading => {
                    self.join(Stage::WarmUp, waiting, now.after(self.rules.warm_up));
                    None
                }
                Prospect::NothingOnline => Some(Refusal::NoEndpointOnline),
                Prospect::Unknown => Some(Refusal::ModelNotFound),
            };
            if let Some(refusal) = refusal {
                self.refuse(now, left, refusal, decisions);
            }
        }
        // With a warm-up time of zero the wait for loading ends as soon as it begins.
        self.expire(now, decisions);
    }

    /// Refuses retries that no untried endpoint can serve, and requests whose API no endpoint serves. A retry does not
    /// wait for an endpoint to be probed, to load or to be tried.
    pub(super) fn refuse_vain(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        if self.queue.retries() == 0 && self.fleet.serves_all_apis() {
            return;
        }
        let is_vain = |WaitingRequest { request, model, .. }: &WaitingRequest| match request.is_retry() {
            true => !self.fleet.has_untried(*model, request),
            false => self.fleet.unserved(*model, request).is_some(),
        };
        for ticket in self.in_order_of_arrival(is_vain) {
            let Some(waiting) = self.queue.leave(ticket) else { continue };
            self.reach_verdict(&waiting.request, Sign::Bad);
            // A retry is refused for what it has tried; an API that no endpoint serves is the lesser reason.
            let unserved = self.fleet.unserved(waiting.model, &waiting.request).filter(|_| !waiting.request.is_retry());
            let nothing_untried = || self.nothing_untried(waiting.model, &waiting.request, waiting.account());
            let refusal = unserved.unwrap_or_else(nothing_untried);
            self.refuse(now, (ticket, waiting.model, waiting.charge), refusal, decisions);
        }
    }

    /// Refuses a request that was taken out of its stage.
    pub(super) fn refuse(
        &mut self,
        now: Moment,
        (ticket, model, charge): (Ticket, ModelNumber, Option<Charge>),
        refusal: Refusal,
        decisions: &mut Vec<Decision>,
    ) {
        self.give_up(now, model, charge);
        decisions.push(Decision::Refuse(ticket, refusal));
    }

    /// Returns the refusal of a retry for which no endpoint is left.
    pub(super) fn nothing_untried(
        &self,
        model: ModelNumber,
        request: &LeaseRequest,
        account: Option<AccountNumber>,
    ) -> Refusal {
        Refusal::NothingUntried { estimated_wait: self.queued(Stage::Line, model, request, account).estimated_wait }
    }

    /// Returns the tickets of the waiting requests that are `wanted`, in the order of their arrival.
    pub(super) fn in_order_of_arrival(&self, wanted: impl Fn(&WaitingRequest) -> bool) -> Vec<Ticket> {
        let wanted = self.queue.iter().filter(|waiting| wanted(waiting));
        let mut arrivals: Vec<_> = wanted.map(|waiting| (waiting.arrived, waiting.ticket)).collect();
        arrivals.sort_unstable();
        arrivals.into_iter().map(|(_, ticket)| ticket).collect()
    }
}
