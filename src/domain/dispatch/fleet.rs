//! The endpoints, their taken slots and their load reports.
//!
//! Every change of an endpoint goes through [`Fleet::change`], which keeps the [`Index`] and the [`Trials`] up to date.

mod capable;
mod endpoint;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

pub use self::capable::{Prospect, Slot};
use self::endpoint::{Endpoint, Reported};
use super::breaker::Breaker;
use super::choose::{Balancing, Mode, Policy};
use super::index::Index;
use super::models::{ModelNumber, Models};
use super::served::ServedApis;
use super::trials::Trials;
use super::unserved::{Presence, UnservedApis};
use crate::domain::blame::{Attempt, Sign, Suspect};
use crate::domain::endpoint::{EndpointFacts, EndpointStatus};
use crate::domain::ids::{EndpointId, LeaseId};
use crate::domain::load::LoadReport;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// The table of endpoints and their slots.
pub struct Fleet {
    policy: Policy,
    endpoints: HashMap<EndpointId, Endpoint>,
    index: Index,
    trials: Trials,
    unserved: UnservedApis,
    /// How many endpoints, of any status, have each model.
    known: HashMap<ModelNumber, usize>,
    pending: HashSet<EndpointId>,
    loading: HashSet<EndpointId>,
    /// When the report of each endpoint stops counting.
    report_ends: BTreeSet<(Moment, EndpointId)>,
    /// When the age of reports was last checked.
    looked: Moment,
    models: Models,
    next_turn: u64,
}

impl Fleet {
    /// Creates a fleet without endpoints.
    pub fn new(balancing: Balancing) -> Self {
        Self {
            policy: Policy::new(balancing),
            endpoints: HashMap::new(),
            index: Index::default(),
            trials: Trials::new(),
            unserved: UnservedApis::default(),
            known: HashMap::new(),
            pending: HashSet::new(),
            loading: HashSet::new(),
            report_ends: BTreeSet::new(),
            looked: Moment::default(),
            models: Models::default(),
            next_turn: 0,
        }
    }

    /// Adds an endpoint or replaces its facts. Its taken slots stay. Its report, breaker and suspicion stay as long as it
    /// is the same server.
    pub fn update(&mut self, facts: EndpointFacts) {
        let id = facts.id();
        let mut models: Vec<ModelNumber> = facts.models.iter().map(|model| self.models.take(model)).collect();
        models.sort_unstable();
        let (models, model_set) = (models.into(), OnceCell::new());
        let endpoint = match self.take_out(id) {
            Some(mut old) => {
                if !old.facts.target.is_same_server(&facts.target) {
                    self.trials.forget(id);
                    self.forget_report(&mut old);
                }
                let has_come_back =
                    facts.status == EndpointStatus::Online && old.facts.status != EndpointStatus::Online;
                if has_come_back || old.models != models || !old.facts.target.is_same_server(&facts.target) {
                    self.unserved.forget(id);
                    old.served_apis = ServedApis::default();
                }
                Endpoint { facts, models, model_set, key: None, ..old }
            }
            None => Endpoint {
                facts,
                models,
                model_set,
                in_flight: 0,
                turn: 0,
                selections: 0,
                report: None,
                served: Moment::default(),
                served_apis: ServedApis::default(),
                key: None,
            },
        };
        self.put_in(endpoint);
    }

    /// Forgets an endpoint. Its leases go on until they end.
    pub fn remove(&mut self, id: EndpointId) {
        if let Some(mut endpoint) = self.take_out(id) {
            self.forget_report(&mut endpoint);
        }
        self.trials.forget(id);
        self.unserved.forget(id);
    }

    fn forget_report(&mut self, endpoint: &mut Endpoint) {
        if let Some(reported) = endpoint.report.take() {
            self.report_ends.remove(&(reported.until, endpoint.facts.id()));
        }
    }

    /// Replaces an endpoint's report. The new report counts at once. Without effect if the endpoint is gone.
    pub fn report(&mut self, id: EndpointId, report: LoadReport, received: Moment) {
        let until = received.after(self.policy.rules().fresh_for);
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        if let Some(old) = &endpoint.report {
            self.report_ends.remove(&(old.until, id));
        }
        self.report_ends.insert((until, id));
        self.change(id, |endpoint, _| {
            endpoint.report = Some(Reported { report: Box::new(report), until, is_fresh: true })
        });
    }

    /// Checks which reports are too old to count. Without effect if the last check is less than `ranking_cache` ago.
    pub fn look(&mut self, now: Moment) {
        if now.since(self.looked) < self.policy.rules().ranking_cache {
            return;
        }
        self.looked = now;
        while let Some((_, id)) = self.report_ends.first().copied().filter(|(until, _)| *until <= now) {
            self.report_ends.pop_first();
            self.change(id, |endpoint, _| {
                if let Some(reported) = &mut endpoint.report {
                    reported.is_fresh = false;
                }
            });
        }
    }

    /// Takes a free slot of an endpoint. Returns the endpoint's target, and whether the lease is the endpoint's trial.
    ///
    /// # Panics
    /// If the endpoint is gone or has no free slot.
    pub fn take(&mut self, id: EndpointId, lease: LeaseId) -> (Arc<Target>, bool) {
        self.next_turn += 1;
        let turn = self.next_turn;
        let taken = self.change(id, |endpoint, trials| {
            assert!(endpoint.has_free_slot(), "a slot is taken only from an endpoint that has one free");
            endpoint.in_flight += 1;
            endpoint.selections += 1;
            endpoint.turn = turn;
            (endpoint.facts.target.clone(), trials.granted(id, lease))
        });
        taken.expect("a slot is taken only from an endpoint that is there")
    }

    /// Gives a slot back and learns what its lease says about the endpoint; without effect if the endpoint is gone.
    /// Returns whether the endpoint's breaker has opened or closed.
    pub fn release(&mut self, now: Moment, target: &Arc<Target>, attempt: Attempt, sign: Sign) -> bool {
        let has_turned = self.change(target.id, |endpoint, trials| {
            endpoint.in_flight -= 1;
            if !endpoint.is_at(target) {
                return false;
            }
            if sign == Sign::Good {
                endpoint.served = attempt.ended;
            }
            trials.judged(now, target.id, attempt, sign)
        });
        has_turned.unwrap_or(false)
    }

    /// Learns what an attempt that has ended says about its endpoint after all. Returns whether the breaker has opened
    /// or closed.
    pub fn judge(&mut self, now: Moment, Suspect { target, attempt, .. }: &Suspect, sign: Sign) -> bool {
        let has_turned = self.change(target.id, |endpoint, trials| {
            endpoint.is_at(target) && trials.judged(now, target.id, *attempt, sign)
        });
        has_turned.unwrap_or(false)
    }

    /// Tells whether the endpoint has served a request after it failed this attempt. The failure then counts no more.
    pub fn has_served_since(&self, Suspect { target, attempt, .. }: &Suspect) -> bool {
        let has_served = |endpoint: &Endpoint| endpoint.is_at(target) && endpoint.served > attempt.ended;
        self.endpoints.get(&target.id).is_some_and(has_served)
    }

    /// Learns that an endpoint has answered a probe sent at `sent`, which the operator asked for if `is_sync`.
    pub fn probe_answered(&mut self, now: Moment, id: EndpointId, sent: Moment, is_sync: bool) {
        if is_sync {
            self.unserved.forget(id);
        } else {
            self.unserved.forget_old(now, id);
        }
        self.change(id, |endpoint, trials| {
            if is_sync {
                endpoint.served_apis = ServedApis::default();
            } else {
                endpoint.served_apis.forget_old(now);
            }
            trials.probe_answered(id, sent);
        });
    }

    /// Learns of the first byte of a good answer to a request that went to `target`. Returns whether the endpoint's
    /// breaker has closed.
    pub fn answer_began(&mut self, now: Moment, lease: LeaseId, target: &Arc<Target>) -> bool {
        let has_closed = self.change(target.id, |endpoint, trials| {
            let is_at = endpoint.is_at(target);
            if is_at {
                endpoint.served = now;
            }
            is_at && trials.answer_began(target.id, lease)
        });
        has_closed.unwrap_or(false)
    }

    /// Returns the endpoints whose breaker shows another state than at the last call, with their breakers.
    pub fn take_turned(&mut self) -> Vec<(Arc<Target>, Breaker)> {
        let turned = self.trials.take_turned();
        let known = turned.into_iter().filter_map(|id| Some((id, self.endpoints.get(&id)?.facts.target.clone())));
        known.map(|(id, target)| (target, self.trials.of(id).breaker)).collect()
    }

    /// Returns the online endpoints whose breaker is not closed.
    pub fn tripped(&self) -> Vec<EndpointId> {
        self.trials.tripped()
    }

    /// Returns when the next open breaker allows a trial; `None` if no breaker is open.
    pub fn next_trial(&self) -> Option<Moment> {
        Some(self.trials.next_trial()?.0)
    }

    /// Begins the trials whose time has come.
    pub fn begin_trials(&mut self, now: Moment) {
        while let Some((_, id)) = self.trials.next_trial().filter(|(until, _)| *until <= now) {
            self.change(id, |_, trials| trials.begin(now, id));
        }
    }

    /// Returns the leases of the trial requests.
    pub fn trial_leases(&self) -> impl Iterator<Item = LeaseId> {
        self.trials.leases()
    }

    /// Returns the models in use.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Returns the models in use, to count their users.
    pub fn models_mut(&mut self) -> &mut Models {
        &mut self.models
    }

    /// Returns the mode by which endpoints are chosen.
    pub fn mode(&self) -> Mode {
        self.policy.rules().mode
    }

    /// Returns how often each endpoint was chosen, by its name.
    pub fn selections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.endpoints.values().map(|endpoint| (endpoint.facts.target.name.as_str(), endpoint.selections))
    }

    /// Returns the slots in flight of every endpoint.
    pub fn in_flight(&self) -> impl Iterator<Item = (EndpointId, u32)> {
        self.endpoints.iter().map(|(id, endpoint)| (*id, endpoint.in_flight))
    }

    /// Returns the name of an endpoint; `None` if the endpoint is gone.
    pub fn name(&self, id: EndpointId) -> Option<&str> {
        self.endpoints.get(&id).map(|endpoint| endpoint.facts.target.name.as_str())
    }

    /// Returns an endpoint's breaker.
    pub fn breaker(&self, id: EndpointId) -> Breaker {
        self.trials.of(id).breaker
    }

    /// Checks that index and trials agree with the endpoints.
    ///
    /// # Panics
    /// If they do not agree.
    pub fn assert_consistent(&self) {
        let (mut online, mut closed) = (0, 0);
        for (id, endpoint) in &self.endpoints {
            assert_eq!(endpoint.facts.status == EndpointStatus::Online, endpoint.key.is_some());
            assert_eq!(endpoint.facts.status == EndpointStatus::Pending, self.pending.contains(id));
            assert_eq!(endpoint.facts.status == EndpointStatus::Loading, self.loading.contains(id));
            let Some(key) = endpoint.key else { continue };
            let position = self.index.position(key);
            online += 1;
            closed += usize::from(position.is_closed);
            let expected = endpoint.position(&self.policy, self.trials.of(*id));
            assert_eq!(*position, expected, "positions follow from what is known");
            assert_eq!(self.trials.is_tripped(*id), !position.is_closed);
        }
        assert_eq!(online - closed, self.trials.tripped().len(), "breakers are closed or tripped");
        self.index.assert_consistent();
        self.unserved.assert_consistent(|id| self.presence(&self.endpoints[&id]));
    }

    /// Returns the number of models of all endpoints together; a model counts once for each endpoint.
    pub fn model_users(&self) -> usize {
        self.endpoints.values().map(|endpoint| endpoint.models.len()).sum()
    }

    fn put_in(&mut self, mut endpoint: Endpoint) {
        let id = endpoint.facts.id();
        for model in endpoint.models.iter() {
            *self.known.entry(*model).or_default() += 1;
        }
        match endpoint.facts.status {
            EndpointStatus::Pending => drop(self.pending.insert(id)),
            EndpointStatus::Loading => drop(self.loading.insert(id)),
            EndpointStatus::Online => {
                let position = endpoint.position(&self.policy, self.trials.of(id));
                let (models, slots) = (endpoint.models.clone(), endpoint.facts.max_concurrency);
                endpoint.key = Some(self.index.enter(models, slots, position));
            }
            EndpointStatus::Draining | EndpointStatus::Offline | EndpointStatus::Error => {}
        }
        self.trials.set_online(id, endpoint.key.is_some());
        self.unserved.set_presence(id, self.presence(&endpoint));
        self.endpoints.insert(id, endpoint);
    }

    fn take_out(&mut self, id: EndpointId) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(&id)?;
        self.pending.remove(&id);
        self.loading.remove(&id);
        self.trials.set_online(id, false);
        self.unserved.set_presence(id, Presence::default());
        if let Some(key) = endpoint.key {
            self.index.leave(key);
        }
        for model in endpoint.models.iter() {
            self.models.give_back(*model);
            if let Some(count) = self.known.get_mut(model) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(model);
                }
            }
        }
        Some(endpoint)
    }

    /// Changes an endpoint, its breaker or its suspicion, and moves the endpoint to its new position. Returns what
    /// `change` returns; `None`, without effect, if the endpoint is gone.
    fn change<R>(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint, &mut Trials) -> R) -> Option<R> {
        let endpoint = self.endpoints.get_mut(&id)?;
        let changed = change(endpoint, &mut self.trials);
        let Some(key) = endpoint.key else { return Some(changed) };
        let position = endpoint.position(&self.policy, self.trials.of(id));
        let was_closed = self.index.position(key).is_closed;
        self.index.reposition(key, position);
        if was_closed != position.is_closed {
            self.trials.set_online(id, true);
            self.unserved.set_presence(id, Presence { online: 1, closed: usize::from(position.is_closed) });
        }
        Some(changed)
    }

    fn presence(&self, endpoint: &Endpoint) -> Presence {
        let closed = |key| Presence { online: 1, closed: usize::from(self.index.position(key).is_closed) };
        endpoint.key.map_or(Presence::default(), closed)
    }
}
