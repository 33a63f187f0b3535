//! Ends attempts, sends a request on to another endpoint, and decides which endpoint the attempts show to be to blame.

use std::sync::Arc;

use super::decision::{Decision, Retried, Submitted};
use super::line::WaitingRequest;
use super::{Dispatcher, Held};
use crate::domain::blame::{Blamed, Sign, Suspect};
use crate::domain::ids::{EndpointId, Ticket};
use crate::domain::request::{EndedLease, LeaseEnd, LeaseRequest, Outcome, Refusal};
use crate::domain::time::Moment;

impl Dispatcher {
    /// Ends the lease of an attempt that failed, passes its slot on, and asks for a lease on an endpoint that has not
    /// failed the request yet; `None` if the lease is not known or has ended before, and its request with it.
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
        self.expire(now, decisions);
        let held = self.leases.remove(&failed.lease)?;
        let has_turned = self.release(now, &held, &failed, true);
        let below_limit = self.end_charged_lease(&held);
        let request = Arc::new(held.next_request(&failed, now));
        let goes_on = self.fleet.has_untried(held.model, &request);
        let account = held.charge.map(|charge| charge.account);
        let refusal = if goes_on { None } else { Some(self.nothing_untried(held.model, &request, account)) };
        self.fleet.models_mut().give_back(held.model);
        self.judge_undecided(&held, &failed, goes_on);
        if !goes_on && held.undecided.is_none() {
            // This attempt is undecided, and no endpoint is left to compare with.
            self.reach_verdict(&request, Sign::Bad);
        }
        self.settle(now, Some(held.target.id), has_turned, decisions);
        let submitted = match refusal {
            Some(refusal) => {
                held.charge.into_iter().for_each(|charge| self.limits.withdraw(now, charge));
                Submitted::Refused(refusal)
            }
            None => {
                let model = self.fleet.models_mut().take(&request.model);
                let waiting = WaitingRequest::new(now, ticket, (request.clone(), model), deadline, held.charge);
                self.place(now, waiting)
            }
        };
        if goes_on && let Submitted::Refused(refusal) = &submitted {
            // The verdict on the attempt before this one may have taken the last untried endpoint away.
            let is_vain = matches!(refusal, Refusal::NothingUntried { .. });
            self.reach_verdict(&request, if is_vain { Sign::Bad } else { Sign::Nothing });
        }
        // The request that goes on comes before the waiting requests of its key.
        self.below_limit.extend(below_limit);
        self.settle(now, None, false, decisions);
        self.debug_assert_invariants();
        Some(Retried { ended: EndedLease { is_final: !goes_on, ..held.ended(now, failed) }, request, submitted })
    }

    /// Ends a lease and its request; `None` if the lease is not known.
    pub(super) fn end_request(&mut self, now: Moment, end: &LeaseEnd, decisions: &mut Vec<Decision>) -> Option<Held> {
        self.expire(now, decisions);
        let held = self.leases.remove(&end.lease)?;
        let has_turned = self.release(now, &held, end, false);
        let below_limit = self.end_charged_lease(&held);
        self.settle_charge(now, &held, &end.outcome);
        self.fleet.models_mut().give_back(held.model);
        self.below_limit.extend(below_limit);
        self.judge_undecided(&held, end, false);
        self.settle(now, Some(held.target.id), has_turned, decisions);
        Some(held)
    }

    /// Gives a slot back and learns what the end of its lease says about the endpoint. Returns whether the endpoint's
    /// breaker has opened or closed, or the endpoint was found not to serve an API.
    fn release(&mut self, now: Moment, held: &Held, end: &LeaseEnd, goes_on: bool) -> bool {
        let sign = held.request.comparison.sign_of(&end.outcome, goes_on);
        if let (Sign::Bad, Outcome::Failed(failure)) = (sign, &end.outcome) {
            self.blamed.push(Blamed { target: held.target.clone(), since: now, failure: failure.clone() });
        }
        if let Outcome::Succeeded { .. } = end.outcome {
            self.fleet.models_mut().service_time_mut(held.model).record(now.since(held.granted));
            self.fleet.learn_served(now, &held.target, held.model, &held.request);
        }
        let is_unserved = matches!(&end.outcome, Outcome::Failed(failure) if failure.is_not_implemented());
        let is_new = is_unserved && self.fleet.learn_unserved(now, &held.target, held.model, &held.request);
        self.fleet.release(now, &held.target, held.attempt(end.lease, now), sign) | is_new
    }

    /// Decides about the endpoint of an earlier attempt by how this one has ended.
    fn judge_undecided(&mut self, held: &Held, end: &LeaseEnd, goes_on: bool) {
        let verdict = held.request.comparison.verdict(&end.outcome, goes_on);
        self.verdicts.extend(held.undecided.clone().map(|suspect| (suspect, verdict)));
    }

    /// Decides about the endpoint that a request's attempts have left undecided, if there is one.
    pub(super) fn reach_verdict(&mut self, request: &LeaseRequest, sign: Sign) {
        self.verdicts.extend(request.comparison.undecided().cloned().map(|suspect| (suspect, sign)));
    }

    /// Carries out every verdict that was reached. A verdict may leave other requests without an endpoint to wait for,
    /// which leads to further verdicts. Then grants the slots that became free by this, and those of the endpoint
    /// `freed`. `has_turned` tells whether a breaker has already opened or closed.
    pub(super) fn settle(
        &mut self,
        now: Moment,
        freed: Option<EndpointId>,
        has_turned: bool,
        decisions: &mut Vec<Decision>,
    ) {
        let mut judged = Vec::new();
        let (mut turns, mut any_turned) = (has_turned, has_turned);
        loop {
            if std::mem::take(&mut turns) {
                self.refuse_vain(now, decisions);
            }
            let Some((suspect, sign)) = self.verdicts.pop() else { break };
            if self.fleet.has_served_since(&suspect) {
                continue;
            }
            turns = self.fleet.judge(now, &suspect, sign);
            any_turned |= turns;
            judged.push(suspect.target.id);
            if sign == Sign::Bad {
                let Suspect { target, attempt, failure } = &*suspect;
                self.blamed.push(Blamed { target: target.clone(), since: attempt.ended, failure: failure.clone() });
            }
        }
        self.serve_below_limit(now, decisions);
        // An endpoint on trial whose trial has shown nothing may be tried again.
        for endpoint in freed.into_iter().chain(judged) {
            self.serve_line(now, endpoint, decisions);
        }
        if any_turned {
            self.serve_tripped(now, decisions);
        }
    }

    /// Returns the endpoints that were found to be to blame since the last call.
    pub fn take_blamed(&mut self) -> Vec<Blamed> {
        std::mem::take(&mut self.blamed)
    }
}

impl Held {
    /// Returns the request for the next attempt after this attempt has failed.
    fn next_request(&self, LeaseEnd { lease, outcome, .. }: &LeaseEnd, now: Moment) -> LeaseRequest {
        let mut next = (*self.request).clone();
        next.tried.push(self.target.id);
        if let Outcome::Failed(failure) = outcome {
            let (target, attempt) = (self.target.clone(), self.attempt(*lease, now));
            let failed = Suspect { target, attempt, failure: failure.clone() };
            next.comparison = next.comparison.after(failed);
        }
        next
    }
}
