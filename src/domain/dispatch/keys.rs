//! What the limits of keys do to requests: they are charged, wait while their key is at its limit, and go on once it is
//! below.

use chrono::NaiveDate;

use super::decision::{Decision, GrantReason};
use super::limits::{AccountNumber, Charge, Day, RateStatus};
use super::models::ModelNumber;
use super::{Dispatcher, Held};
use crate::domain::ids::KeyId;
use crate::domain::keys::KeyLimits;
use crate::domain::request::{LeaseRequest, Outcome, Refusal, TokenCount};
use crate::domain::time::Moment;

impl Dispatcher {
    /// Learns the limits of new and changed keys, and which keys are gone. Waiting requests of a key that may now hold
    /// more leases are served at once. Waiting requests of a key that is gone go on without limits: they were admitted.
    pub fn change_keys(
        &mut self,
        now: Moment,
        updated: Vec<(KeyId, KeyLimits)>,
        removed: Vec<KeyId>,
        decisions: &mut Vec<Decision>,
    ) {
        self.expire(now, decisions);
        for (key, limits) in updated {
            let account = self.limits.change(now, key, limits);
            self.stand_in_turn(account);
        }
        for key in removed {
            if let Some(account) = self.limits.remove(now, key) {
                self.stand_in_turn(account);
            }
        }
        self.settle(now, None, false, decisions);
        self.debug_assert_invariants();
    }

    /// Learns which local day it is, when it ends, and what keys have used on it before Leaseway was started. A day that
    /// has been before, because the clock was set back, gives no tokens back. Keys that are not known are left out.
    pub fn begin_day(&mut self, date: NaiveDate, ends: Moment, used: Vec<(KeyId, u64)>) {
        self.limits.begin_day(Day { date, ends });
        used.into_iter().for_each(|(key, tokens)| self.limits.add_used(key, tokens));
        self.debug_assert_invariants();
    }

    /// Charges a request to its key, or returns its refusal if a limit of the key is exceeded; `None` without a key.
    pub(super) fn charge(
        &mut self,
        now: Moment,
        model: ModelNumber,
        request: &LeaseRequest,
    ) -> Result<Option<Charge>, Refusal> {
        let Some(key) = request.key else { return Ok(None) };
        let tokens = self.fleet.models().tokens_per_byte(model).estimate(request.body_bytes);
        self.limits.charge(now, key, tokens).map(Some)
    }

    /// Counts a lease of a key, and returns how much is left of the key's limits.
    pub(super) fn begin_charged_lease(&mut self, now: Moment, charge: Charge) -> Option<Box<RateStatus>> {
        self.limits.begin_lease(charge.account);
        if self.limits.is_at_limit(charge.account) {
            self.queue.set_aside(charge.account, true);
        }
        self.limits.status(now, charge.account)
    }

    /// Counts the end of a lease. Returns the account of its key if the key was at its limit, so that another request of the
    /// key may now have a lease.
    pub(super) fn end_charged_lease(&mut self, held: &Held) -> Option<AccountNumber> {
        let Charge { account, .. } = held.charge?;
        let was_at_limit = self.limits.is_at_limit(account);
        self.limits.end_lease(account);
        was_at_limit.then_some(account)
    }

    /// Replaces what a request was charged by what it has used, as far as that is known. Without the tokens of the prompt
    /// their estimate stays. Learns from the tokens how many a byte has.
    pub(super) fn settle_charge(&mut self, now: Moment, held: &Held, outcome: &Outcome) {
        let Some(charge) = held.charge else { return };
        match outcome {
            Outcome::Succeeded { tokens: Some(TokenCount { input, output, .. }) } => {
                if let Some(input) = input {
                    let bytes = held.request.body_bytes;
                    self.fleet.models_mut().tokens_per_byte_mut(held.model).learn(*input, bytes);
                }
                self.limits.settle(now, charge, input.unwrap_or(charge.tokens).saturating_add(*output));
            }
            Outcome::Succeeded { tokens: None } | Outcome::Failed(_) | Outcome::Abandoned => {
                self.limits.withdraw(now, charge);
            }
        }
    }

    /// Forgets a request that ends without a lease.
    pub(super) fn give_up(&mut self, now: Moment, model: ModelNumber, charge: Option<Charge>) {
        self.fleet.models_mut().give_back(model);
        if let Some(charge) = charge {
            self.limits.withdraw(now, charge);
        }
    }

    /// Lets the clients of keys that were at their limit and are no longer take part again, and serves what free slots
    /// can serve of their requests.
    pub(super) fn serve_below_limit(&mut self, now: Moment, decisions: &mut Vec<Decision>) {
        let mut accounts = std::mem::take(&mut self.below_limit);
        accounts.retain(|account| !self.limits.is_at_limit(*account));
        accounts.iter().for_each(|account| self.queue.set_aside(*account, false));
        accounts.into_iter().for_each(|account| self.serve_account(now, account, decisions));
    }

    /// Serves the requests of a key until the key is at its limit or no free slot can serve one. Every slot goes to the
    /// request that is first for it, which may be that of another client if the slot has just become free.
    fn serve_account(&mut self, now: Moment, account: AccountNumber, decisions: &mut Vec<Decision>) {
        while !self.limits.is_at_limit(account) {
            let fleet = &self.fleet;
            let first = self.queue.first_of(
                account,
                |model| fleet.is_free(model),
                |waiting| fleet.choose(waiting.model, &waiting.request),
            );
            let Some((ticket, (endpoint, reason))) = first else { return };
            let Some(next) = self.next_for(endpoint) else { return };
            let reason = if next.ticket == ticket { reason } else { GrantReason::OnlyCandidate };
            let ticket = next.ticket;
            let grant = self.grant(now, endpoint, reason, next, true);
            decisions.push(Decision::Grant(ticket, grant));
        }
    }

    /// Puts the clients of a key aside if the key is at its limit, else notes that they may take part.
    fn stand_in_turn(&mut self, account: AccountNumber) {
        if self.limits.is_at_limit(account) {
            self.queue.set_aside(account, true);
        } else {
            self.below_limit.push(account);
        }
    }
}
