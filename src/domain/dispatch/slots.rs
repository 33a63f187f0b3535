//! Which endpoints exist, what they serve and how many of their slots are taken.
//!
//! Endpoints that serve the same set of models form a group. Within a group those with a free slot are kept ordered by
//! rank and turn, so that choosing looks at two endpoints per group and a grant or a release touches one group only.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::breaker::Breaker;
use super::choose::{Balancing, Mode, Rank, Standing};
use super::decision::GrantReason;
use super::group::{Endpoint, Group, GroupId, ModelNames, Reported};
use super::model_set::{ModelNumbers, ModelSet};
use crate::domain::endpoint::{EndpointFacts, EndpointStatus, Target};
use crate::domain::ids::{EndpointId, LeaseId, ModelId};
use crate::domain::load::LoadReport;
use crate::domain::request::{LeaseRequest, Outcome};
use crate::domain::time::Moment;

/// What can be hoped for by a request that finds no free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// An online endpoint serves the model, or one that has not been probed yet may.
    Possible,
    /// No endpoint serves the model, but one that is loading will, or may.
    Loading,
    /// Endpoints have the model, but none of them is online.
    NothingOnline,
    /// No endpoint has the model.
    Unknown,
}

/// A free slot: whose it is and what it can serve.
#[derive(Debug)]
pub struct Slot {
    pub endpoint: EndpointId,
    pub models: ModelSet,
}

/// The table of endpoints and their slots.
pub struct Slots {
    balancing: Balancing,
    endpoints: HashMap<EndpointId, Endpoint>,
    groups: HashMap<GroupId, Group>,
    group_of: HashMap<ModelNames, GroupId>,
    groups_by_model: HashMap<ModelId, BTreeSet<GroupId>>,
    /// How many endpoints have the model, in any status.
    known: HashMap<ModelId, usize>,
    pending: HashSet<EndpointId>,
    loading: HashSet<EndpointId>,
    /// When reports stop to count.
    report_ends: BTreeSet<(Moment, EndpointId)>,
    /// When that was last looked at.
    looked: Moment,
    /// Online endpoints whose breaker is not closed.
    tripped: BTreeSet<EndpointId>,
    numbers: ModelNumbers,
    next_group: u64,
    next_turn: u64,
}

impl Slots {
    /// Creates a table without endpoints.
    pub fn new(balancing: Balancing) -> Self {
        Self {
            balancing,
            endpoints: HashMap::new(),
            groups: HashMap::new(),
            group_of: HashMap::new(),
            groups_by_model: HashMap::new(),
            known: HashMap::new(),
            pending: HashSet::new(),
            loading: HashSet::new(),
            report_ends: BTreeSet::new(),
            looked: Moment::default(),
            tripped: BTreeSet::new(),
            numbers: ModelNumbers::default(),
            next_group: 0,
            next_turn: 0,
        }
    }

    /// Adds an endpoint or replaces what is known of it, which ends any suspicion; its slots in flight stay taken, its report
    /// counts on.
    pub fn update(&mut self, facts: EndpointFacts) {
        let endpoint = match self.take_out(facts.id()) {
            Some(old) => {
                // One that comes back, or is another server now, starts afresh.
                let goes_on = old.group.is_some() && Arc::ptr_eq(&old.facts.target, &facts.target);
                let breaker = if goes_on { old.breaker } else { Breaker::default() };
                Endpoint { facts, models: ModelSet::default(), group: None, is_suspect: false, breaker, ..old }
            }
            None => Endpoint {
                facts,
                models: ModelSet::default(),
                in_flight: 0,
                turn: 0,
                selections: 0,
                report: None,
                is_suspect: false,
                breaker: Breaker::default(),
                standing: Standing::default(),
                group: None,
            },
        };
        self.put_in(endpoint);
    }

    /// Forgets an endpoint; leases on it go on until they end.
    pub fn remove(&mut self, id: EndpointId) {
        if let Some(reported) = self.take_out(id).and_then(|endpoint| endpoint.report) {
            self.report_ends.remove(&(reported.until, id));
        }
    }

    /// Takes up an endpoint's report, which counts at once; without effect if the endpoint is gone.
    pub fn report(&mut self, id: EndpointId, report: LoadReport, received: Moment) {
        let until = received.after(self.balancing.fresh_for);
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        if let Some(old) = &endpoint.report {
            self.report_ends.remove(&(old.until, id));
        }
        self.report_ends.insert((until, id));
        self.reposition(id, |endpoint| {
            endpoint.report = Some(Reported { report: Box::new(report), until, is_fresh: true })
        });
    }

    /// Looks which reports have grown too old to count, if that is due again.
    pub fn look(&mut self, now: Moment) {
        if now.since(self.looked) < self.balancing.ranking_cache {
            return;
        }
        self.looked = now;
        while let Some((_, id)) = self.report_ends.first().copied().filter(|(until, _)| *until <= now) {
            self.report_ends.pop_first();
            self.reposition(id, |endpoint| {
                if let Some(reported) = &mut endpoint.report {
                    reported.is_fresh = false;
                }
            });
        }
    }

    /// Returns the endpoint to grant a request on, of those with a free slot that have not failed it, and why that one.
    pub fn choose(&self, request: &LeaseRequest) -> Option<(EndpointId, GrantReason)> {
        let groups = || self.groups_of(&request.model);
        let is_untried = |place: &&(Rank, u64, EndpointId)| !request.tried.contains(&place.2);
        let none_closed = groups().all(|group| group.closed == 0);
        let (mut best, mut second) = (None, None);
        for group in groups() {
            let sets = [Some(&group.free), none_closed.then_some(&group.skipped)];
            for place in sets.into_iter().flatten().flat_map(|set| set.iter().filter(is_untried).take(2)) {
                if best.is_none_or(|best| place < best) {
                    second = best.replace(place);
                } else if second.is_none_or(|second| place < second) {
                    second = Some(place);
                }
            }
        }
        let (rank, _, id) = best?;
        let Some((next_rank, ..)) = second else { return Some((*id, GrantReason::OnlyCandidate)) };
        let tried_and_calm = request.tried.iter().filter(|id| self.is_calm(**id, &request.model)).count();
        let calm: usize = groups().map(|group| group.free.len() - group.strained.len()).sum();
        if calm == tried_and_calm && !none_closed {
            let strained =
                groups().filter_map(|group| group.strained.iter().find(|(.., id)| !request.tried.contains(id)));
            return Some((strained.min()?.2, GrantReason::RoundRobin));
        }
        Some((*id, self.balancing.reason(rank, next_rank)))
    }

    /// Tells whether an endpoint has a free slot for the model and is not strained.
    fn is_calm(&self, id: EndpointId, model: &ModelId) -> bool {
        self.endpoints.get(&id).is_some_and(|endpoint| {
            let serves = endpoint.group.is_some() && endpoint.facts.models.contains(model);
            serves && endpoint.has_free_slot() && !endpoint.is_skipped() && !endpoint.standing.is_strained
        })
    }

    fn groups_of(&self, model: &ModelId) -> impl Iterator<Item = &Group> {
        self.groups_by_model.get(model).into_iter().flatten().map(|group| &self.groups[group])
    }

    /// Takes a slot of an endpoint that has one free.
    pub fn take(&mut self, id: EndpointId, lease: LeaseId) -> &EndpointFacts {
        self.next_turn += 1;
        let turn = self.next_turn;
        self.reposition(id, |endpoint| {
            assert!(endpoint.has_free_slot(), "a slot is taken only from an endpoint that has one free");
            endpoint.in_flight += 1;
            endpoint.selections += 1;
            endpoint.turn = turn;
            endpoint.breaker = endpoint.breaker.granted(lease);
        });
        &self.endpoints[&id].facts
    }

    /// Gives a slot back; without effect if the endpoint is gone. What came of a request that went by an older definition says
    /// nothing about the endpoint. Returns whether its breaker has opened or closed.
    pub fn release(&mut self, now: Moment, lease: LeaseId, target: &Arc<Target>, outcome: &Outcome) -> bool {
        let mut has_turned = false;
        self.reposition(target.id, |endpoint| {
            endpoint.in_flight -= 1;
            if !Arc::ptr_eq(target, &endpoint.facts.target) {
                return;
            }
            let was_closed = endpoint.breaker.is_closed();
            endpoint.breaker = endpoint.breaker.ended(now, lease, outcome);
            has_turned = was_closed != endpoint.breaker.is_closed();
            match outcome {
                Outcome::Succeeded { .. } => endpoint.is_suspect = false,
                Outcome::Failed(failure) => endpoint.is_suspect |= failure.ranks_last(),
                Outcome::Abandoned => {}
            }
        });
        has_turned
    }

    /// Returns a free slot of an online endpoint, `None` for any other. One that is skipped serves only models for which every
    /// endpoint's breaker is open.
    pub fn free_slot(&self, id: EndpointId) -> Option<Slot> {
        let endpoint = self.endpoints.get(&id)?;
        if endpoint.group.is_none() || !endpoint.has_free_slot() {
            return None;
        }
        if !endpoint.is_skipped() {
            return Some(Slot { endpoint: id, models: endpoint.models.clone() });
        }
        let mut models = ModelSet::default();
        let served = endpoint.facts.models.iter().filter(|model| self.groups_of(model).all(|group| group.closed == 0));
        served.filter_map(|model| self.numbers.get(model)).for_each(|number| models.insert(number));
        Some(Slot { endpoint: id, models })
    }

    /// Returns the online endpoints whose breaker is not closed.
    pub fn tripped(&self) -> Vec<EndpointId> {
        self.tripped.iter().copied().collect()
    }

    /// Returns when the next breaker is to be tried.
    pub fn next_trial(&self) -> Option<Moment> {
        let breakers = self.tripped.iter().map(|id| self.endpoints[id].breaker);
        let ends = breakers.filter_map(|breaker| match breaker {
            Breaker::Open { until, .. } => Some(until),
            Breaker::Closed { .. } | Breaker::Trial { .. } => None,
        });
        ends.min()
    }

    /// Has the breakers be tried whose time has come.
    pub fn begin_trials(&mut self, now: Moment) {
        for id in self.tripped() {
            self.reposition(id, |endpoint| endpoint.breaker = endpoint.breaker.waited(now));
        }
    }

    /// Returns how many slots could serve `model`, free or not, and all the models that compete for them, itself among them.
    pub fn competition(&self, model: &ModelId) -> (u64, ModelSet) {
        let mut models = self.numbers.get(model).map(ModelSet::of).unwrap_or_default();
        let mut slots = 0;
        for group in self.groups_of(model) {
            slots += group.slots;
            group.models.iter().filter_map(|model| self.numbers.get(model)).for_each(|number| models.insert(number));
        }
        (slots, models)
    }

    /// Tells whether a model is in this set.
    pub fn is_among(&self, model: &ModelId, models: &ModelSet) -> bool {
        self.numbers.get(model).is_some_and(|number| models.contains(number))
    }

    /// Tells whether an online endpoint that is not skipped, free or not, could serve a request and has not failed it.
    pub fn has_untried(&self, request: &LeaseRequest) -> bool {
        let groups = || self.groups_of(&request.model);
        let none_closed = groups().all(|group| group.closed == 0);
        let serving: usize = groups().map(|group| if none_closed { group.members } else { group.closed }).sum();
        let is_among = |id: &&EndpointId| {
            self.endpoints.get(id).is_some_and(|endpoint| {
                let serves = endpoint.group.is_some() && endpoint.facts.models.contains(&request.model);
                serves && (none_closed || endpoint.breaker.is_closed())
            })
        };
        serving > request.tried.iter().filter(is_among).count()
    }

    /// Returns the numbers of the models, which the line shares.
    pub fn numbers(&mut self) -> &mut ModelNumbers {
        &mut self.numbers
    }

    /// Tells what a request for `model` may hope for when no slot is free.
    pub fn prospect(&self, model: &ModelId) -> Prospect {
        let may_serve = |id: &EndpointId| {
            let models = &self.endpoints[id].facts.models;
            models.is_empty() || models.contains(model)
        };
        if self.groups_by_model.contains_key(model) || self.pending.iter().any(may_serve) {
            Prospect::Possible
        } else if self.loading.iter().any(may_serve) {
            Prospect::Loading
        } else if self.known.contains_key(model) {
            Prospect::NothingOnline
        } else {
            Prospect::Unknown
        }
    }

    /// Returns how endpoints are chosen.
    pub fn mode(&self) -> Mode {
        self.balancing.mode
    }

    /// Returns how often each endpoint was chosen, by its name.
    pub fn selections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.endpoints.values().map(|endpoint| (endpoint.facts.target.name.as_str(), endpoint.selections))
    }

    /// Returns the slots in flight of every endpoint.
    pub fn in_flight(&self) -> impl Iterator<Item = (EndpointId, u32)> {
        self.endpoints.iter().map(|(id, endpoint)| (*id, endpoint.in_flight))
    }

    /// Checks that the index agrees with the endpoints.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_consistent(&self) {
        let mut members = 0;
        for (id, endpoint) in &self.endpoints {
            assert_eq!(endpoint.facts.status == EndpointStatus::Online, endpoint.group.is_some());
            assert_eq!(endpoint.facts.status == EndpointStatus::Pending, self.pending.contains(id));
            assert_eq!(endpoint.facts.status == EndpointStatus::Loading, self.loading.contains(id));
            let Some(group) = endpoint.group else { continue };
            members += 1;
            let Standing { rank, is_strained } = endpoint.standing;
            let free = self.groups[&group].free.contains(&(rank, endpoint.turn, *id));
            let is_free = endpoint.has_free_slot() && !endpoint.is_skipped();
            assert_eq!(free, is_free, "free endpoints are exactly those with a free slot");
            assert_eq!(self.tripped.contains(id), !endpoint.breaker.is_closed());
            let strained = self.groups[&group].strained.contains(&(endpoint.is_suspect, endpoint.turn, *id));
            assert_eq!(strained, free && is_strained, "strained endpoints are found by turn");
            let skipped = self.groups[&group].skipped.contains(&(rank, endpoint.turn, *id));
            assert_eq!(skipped, endpoint.has_free_slot() && endpoint.is_skipped(), "skipped endpoints are not free");
        }
        assert_eq!(members, self.groups.values().map(|group| group.members).sum::<usize>());
        let closed: usize = self.groups.values().map(|group| group.closed).sum();
        assert_eq!(members - self.tripped.len(), closed, "breakers are closed or tripped");
        assert!(self.groups.values().all(|group| group.free.len() <= group.members && group.members > 0));
        assert!(self.groups_by_model.values().all(|groups| !groups.is_empty()));
    }

    fn put_in(&mut self, mut endpoint: Endpoint) {
        let id = endpoint.facts.id();
        endpoint.judge(&self.balancing);
        for model in endpoint.facts.models.iter() {
            *self.known.entry(model.clone()).or_default() += 1;
            endpoint.models.insert(self.numbers.take(model));
        }
        match endpoint.facts.status {
            EndpointStatus::Pending => {
                self.pending.insert(id);
            }
            EndpointStatus::Loading => {
                self.loading.insert(id);
            }
            EndpointStatus::Online => {
                let group_id = self.group_for(&endpoint.facts.models);
                endpoint.group = Some(group_id);
                if let Some(group) = self.groups.get_mut(&group_id) {
                    group.members += 1;
                    group.slots += u64::from(endpoint.facts.max_concurrency);
                    group.add(&endpoint);
                }
                if !endpoint.breaker.is_closed() {
                    self.tripped.insert(id);
                }
            }
            EndpointStatus::Draining | EndpointStatus::Offline | EndpointStatus::Error => {}
        }
        self.endpoints.insert(id, endpoint);
    }

    fn take_out(&mut self, id: EndpointId) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(&id)?;
        self.pending.remove(&id);
        self.loading.remove(&id);
        self.tripped.remove(&id);
        for model in endpoint.facts.models.iter() {
            self.numbers.give_back(model);
            if let Some(count) = self.known.get_mut(model) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(model);
                }
            }
        }
        if let Some(group_id) = endpoint.group {
            self.leave_group(group_id, &endpoint);
        }
        Some(endpoint)
    }

    fn group_for(&mut self, models: &ModelNames) -> GroupId {
        if let Some(group) = self.group_of.get(models) {
            return *group;
        }
        let group_id = GroupId(self.next_group);
        self.next_group += 1;
        self.group_of.insert(models.clone(), group_id);
        self.groups.insert(
            group_id,
            Group {
                models: models.clone(),
                members: 0,
                slots: 0,
                closed: 0,
                free: BTreeSet::new(),
                skipped: BTreeSet::new(),
                strained: BTreeSet::new(),
            },
        );
        for model in models.iter() {
            self.groups_by_model.entry(model.clone()).or_default().insert(group_id);
        }
        group_id
    }

    fn leave_group(&mut self, group_id: GroupId, endpoint: &Endpoint) {
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.take_out(endpoint);
        group.members -= 1;
        group.slots -= u64::from(endpoint.facts.max_concurrency);
        if group.members > 0 {
            return;
        }
        let models = group.models.clone();
        self.groups.remove(&group_id);
        self.group_of.remove(&models);
        for model in models.iter() {
            if let Some(groups) = self.groups_by_model.get_mut(model) {
                groups.remove(&group_id);
                if groups.is_empty() {
                    self.groups_by_model.remove(model);
                }
            }
        }
    }

    /// Changes an endpoint and puts it where it then belongs in its group.
    fn reposition(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint)) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let mut group = endpoint.group.and_then(|group| self.groups.get_mut(&group));
        if let Some(group) = &mut group {
            group.take_out(endpoint);
        }
        change(endpoint);
        endpoint.judge(&self.balancing);
        if let Some(group) = group {
            group.add(endpoint);
            if endpoint.breaker.is_closed() {
                self.tripped.remove(&id);
            } else {
                self.tripped.insert(id);
            }
        }
    }
}
