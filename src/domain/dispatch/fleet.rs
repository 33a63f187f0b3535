//! Which endpoints exist, how many of their slots are taken, and what they report.
//!
//! The fleet keeps the [`Index`] and the [`Trials`] in step with what it knows: every change of an endpoint goes through
//! [`Fleet::change`].

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::choose::{Balancing, Candidate, Mode};
use super::decision::GrantReason;
use super::index::{GroupId, Index, Position, Room};
use super::model_set::{ModelNumbers, ModelSet};
use super::trials::{Trial, Trials};
use crate::domain::blame::{Sign, Suspect};
use crate::domain::endpoint::{EndpointFacts, EndpointStatus, Target};
use crate::domain::ids::{EndpointId, LeaseId, ModelId};
use crate::domain::load::LoadReport;
use crate::domain::request::LeaseRequest;
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

/// A free slot.
#[derive(Debug)]
pub struct Slot {
    /// The endpoint that has the slot.
    pub endpoint: EndpointId,
    /// The models that the slot can serve.
    pub models: ModelSet,
}

/// An endpoint, and what follows from its leases and reports.
struct Endpoint {
    facts: EndpointFacts,
    /// The numbers of its models.
    models: ModelSet,
    in_flight: u32,
    /// When it was last chosen, as a count of grants: the smallest is next.
    turn: u64,
    /// How often it was chosen.
    selections: u64,
    report: Option<Reported>,
    /// Where the index has it; `None` while it is not online.
    place: Option<(GroupId, Position)>,
}

/// A load report, and whether it counts.
struct Reported {
    /// On the heap, so that the table of endpoints stays small.
    report: Box<LoadReport>,
    /// When it stops to count.
    until: Moment,
    /// It counted when the reports were last looked at.
    is_fresh: bool,
}

impl Endpoint {
    /// Tells whether this is still its definition. A request that went by an older one says nothing about the endpoint.
    fn is_at(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(target, &self.facts.target)
    }

    fn has_free_slot(&self) -> bool {
        self.in_flight < self.facts.max_concurrency
    }

    /// Returns where it stands among the online endpoints.
    fn position(&self, balancing: &Balancing, trial: Trial) -> Position {
        let fresh = self.report.as_ref().filter(|reported| reported.is_fresh);
        let standing = balancing.judge(&Candidate {
            capability_score: self.facts.capability_score,
            in_flight: self.in_flight,
            slots: self.facts.max_concurrency,
            report: fresh.map(|reported| reported.report.as_ref()),
            is_suspect: trial.is_suspect,
        });
        let room = match self.has_free_slot() {
            false => Room::Full,
            true if trial.breaker.skips() => Room::Skipped,
            true => Room::Free,
        };
        let is_closed = trial.breaker.is_closed();
        let (id, turn) = (self.facts.id(), self.turn);
        Position { id, standing, turn, is_suspect: trial.is_suspect, is_closed, room }
    }
}

/// The table of endpoints and their slots.
pub struct Fleet {
    balancing: Balancing,
    endpoints: HashMap<EndpointId, Endpoint>,
    index: Index,
    trials: Trials,
    /// How many endpoints have the model, in any status.
    known: HashMap<ModelId, usize>,
    pending: HashSet<EndpointId>,
    loading: HashSet<EndpointId>,
    /// When reports stop to count.
    report_ends: BTreeSet<(Moment, EndpointId)>,
    /// When the reports were last looked at.
    looked: Moment,
    numbers: ModelNumbers,
    next_turn: u64,
}

impl Fleet {
    /// Creates a fleet without endpoints.
    pub fn new(balancing: Balancing) -> Self {
        Self {
            balancing,
            endpoints: HashMap::new(),
            index: Index::new(),
            trials: Trials::new(),
            known: HashMap::new(),
            pending: HashSet::new(),
            loading: HashSet::new(),
            report_ends: BTreeSet::new(),
            looked: Moment::default(),
            numbers: ModelNumbers::default(),
            next_turn: 0,
        }
    }

    /// Adds an endpoint or replaces what is known of it, which ends any suspicion; its slots in flight stay taken, its report
    /// counts on.
    pub fn update(&mut self, facts: EndpointFacts) {
        let id = facts.id();
        let endpoint = match self.take_out(id) {
            Some(old) => {
                // An endpoint that comes back, or is another server now, starts afresh.
                let goes_on = old.place.is_some() && Arc::ptr_eq(&old.facts.target, &facts.target);
                if goes_on {
                    self.trials.clear_suspicion(id);
                } else {
                    self.trials.forget(id);
                }
                Endpoint { facts, models: ModelSet::default(), place: None, ..old }
            }
            None => Endpoint {
                facts,
                models: ModelSet::default(),
                in_flight: 0,
                turn: 0,
                selections: 0,
                report: None,
                place: None,
            },
        };
        self.put_in(endpoint);
    }

    /// Forgets an endpoint; leases on it go on until they end.
    pub fn remove(&mut self, id: EndpointId) {
        if let Some(reported) = self.take_out(id).and_then(|endpoint| endpoint.report) {
            self.report_ends.remove(&(reported.until, id));
        }
        self.trials.forget(id);
    }

    /// Takes up an endpoint's report, which counts at once; without effect if the endpoint is gone.
    pub fn report(&mut self, id: EndpointId, report: LoadReport, received: Moment) {
        let until = received.after(self.balancing.fresh_for);
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        if let Some(old) = &endpoint.report {
            self.report_ends.remove(&(old.until, id));
        }
        self.report_ends.insert((until, id));
        self.change(id, |endpoint, _| {
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
            self.change(id, |endpoint, _| {
                if let Some(reported) = &mut endpoint.report {
                    reported.is_fresh = false;
                }
            });
        }
    }

    /// Returns the endpoint to grant a request on, of those with a free slot that have not failed it, and why that one.
    pub fn choose(&self, request: &LeaseRequest) -> Option<(EndpointId, GrantReason)> {
        let tried_and_calm = request.tried.iter().filter(|id| self.is_calm(**id, &request.model)).count();
        self.index.choose(&self.balancing, request, tried_and_calm)
    }

    /// Tells whether an endpoint has a free slot for the model and is not strained.
    fn is_calm(&self, id: EndpointId, model: &ModelId) -> bool {
        self.endpoints.get(&id).is_some_and(|endpoint| {
            let is_calm =
                |(_, position): (GroupId, Position)| position.room == Room::Free && !position.standing.is_strained;
            endpoint.place.is_some_and(is_calm) && endpoint.facts.models.contains(model)
        })
    }

    /// Takes a slot of an endpoint that has one free.
    pub fn take(&mut self, id: EndpointId, lease: LeaseId) -> &EndpointFacts {
        self.next_turn += 1;
        let turn = self.next_turn;
        self.change(id, |endpoint, trials| {
            assert!(endpoint.has_free_slot(), "a slot is taken only from an endpoint that has one free");
            endpoint.in_flight += 1;
            endpoint.selections += 1;
            endpoint.turn = turn;
            trials.granted(id, lease);
        });
        &self.endpoints[&id].facts
    }

    /// Gives a slot back and learns what its lease says about the endpoint; without effect if the endpoint is gone. Returns
    /// whether the endpoint's breaker has opened or closed.
    pub fn release(&mut self, now: Moment, lease: LeaseId, target: &Arc<Target>, sign: Sign) -> bool {
        let mut has_turned = false;
        self.change(target.id, |endpoint, trials| {
            endpoint.in_flight -= 1;
            has_turned = endpoint.is_at(target) && trials.judged(now, target.id, lease, sign);
        });
        has_turned
    }

    /// Learns what a lease that has ended says about its endpoint after all. Returns whether the breaker has opened or closed.
    pub fn judge(&mut self, now: Moment, Suspect { target, lease, .. }: &Suspect, sign: Sign) -> bool {
        let mut has_turned = false;
        self.change(target.id, |endpoint, trials| {
            has_turned = endpoint.is_at(target) && trials.judged(now, target.id, *lease, sign);
        });
        has_turned
    }

    /// Returns a free slot of an online endpoint, `None` for any other. An endpoint that is skipped serves only models for
    /// which every endpoint's breaker is open.
    pub fn free_slot(&self, id: EndpointId) -> Option<Slot> {
        let endpoint = self.endpoints.get(&id)?;
        match endpoint.place?.1.room {
            Room::Full => None,
            Room::Free => Some(Slot { endpoint: id, models: endpoint.models.clone() }),
            Room::Skipped => {
                let mut models = ModelSet::default();
                let served = endpoint.facts.models.iter().filter(|model| !self.index.has_closed(model));
                served.filter_map(|model| self.numbers.get(model)).for_each(|number| models.insert(number));
                Some(Slot { endpoint: id, models })
            }
        }
    }

    /// Returns the online endpoints whose breaker is not closed.
    pub fn tripped(&self) -> Vec<EndpointId> {
        self.trials.tripped()
    }

    /// Returns when the next breaker is to be tried.
    pub fn next_trial(&self) -> Option<Moment> {
        self.trials.next_trial()
    }

    /// Begins the trials whose time has come.
    pub fn begin_trials(&mut self, now: Moment) {
        for id in self.trials.tripped() {
            self.change(id, |_, trials| trials.begin(now, id));
        }
    }

    /// Returns how many slots could serve `model`, free or not, and all the models that compete for them, itself among them.
    pub fn competition(&self, model: &ModelId) -> (u64, ModelSet) {
        let mut models = self.numbers.get(model).map(ModelSet::of).unwrap_or_default();
        let (slots, sets) = self.index.competition(model);
        let competing = sets.flat_map(|set| set.iter());
        competing.filter_map(|model| self.numbers.get(model)).for_each(|number| models.insert(number));
        (slots, models)
    }

    /// Tells whether a model is in this set.
    pub fn is_among(&self, model: &ModelId, models: &ModelSet) -> bool {
        self.numbers.get(model).is_some_and(|number| models.contains(number))
    }

    /// Tells whether an online endpoint that is not skipped, free or not, could serve a request and has not failed it.
    pub fn has_untried(&self, request: &LeaseRequest) -> bool {
        let (members, closed) = self.index.members(&request.model);
        let serving = if closed == 0 { members } else { closed };
        let is_among = |id: &&EndpointId| {
            self.endpoints.get(id).is_some_and(|endpoint| {
                let counts = |(_, position): (GroupId, Position)| closed == 0 || position.is_closed;
                endpoint.place.is_some_and(counts) && endpoint.facts.models.contains(&request.model)
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
        if self.index.serves(model) || self.pending.iter().any(may_serve) {
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

    /// Checks that index and trials agree with the endpoints.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        let (mut members, mut closed) = (0, 0);
        for (id, endpoint) in &self.endpoints {
            assert_eq!(endpoint.facts.status == EndpointStatus::Online, endpoint.place.is_some());
            assert_eq!(endpoint.facts.status == EndpointStatus::Pending, self.pending.contains(id));
            assert_eq!(endpoint.facts.status == EndpointStatus::Loading, self.loading.contains(id));
            let Some((group, position)) = &endpoint.place else { continue };
            members += 1;
            closed += usize::from(position.is_closed);
            let trial = self.trials.of(*id);
            assert_eq!(*position, endpoint.position(&self.balancing, trial), "positions follow from what is known");
            assert_eq!(self.trials.is_tripped(*id), !position.is_closed);
            self.index.assert_holds(*group, position);
        }
        assert_eq!(members - closed, self.trials.tripped().len(), "breakers are closed or tripped");
        self.index.assert_counts(members, closed);
    }

    fn put_in(&mut self, mut endpoint: Endpoint) {
        let id = endpoint.facts.id();
        for model in endpoint.facts.models.iter() {
            *self.known.entry(model.clone()).or_default() += 1;
            endpoint.models.insert(self.numbers.take(model));
        }
        match endpoint.facts.status {
            EndpointStatus::Pending => drop(self.pending.insert(id)),
            EndpointStatus::Loading => drop(self.loading.insert(id)),
            EndpointStatus::Online => {
                let position = endpoint.position(&self.balancing, self.trials.of(id));
                let group = self.index.enter(&endpoint.facts.models, endpoint.facts.max_concurrency, &position);
                endpoint.place = Some((group, position));
            }
            EndpointStatus::Draining | EndpointStatus::Offline | EndpointStatus::Error => {}
        }
        self.trials.set_online(id, endpoint.place.is_some());
        self.endpoints.insert(id, endpoint);
    }

    fn take_out(&mut self, id: EndpointId) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(&id)?;
        self.pending.remove(&id);
        self.loading.remove(&id);
        self.trials.set_online(id, false);
        for model in endpoint.facts.models.iter() {
            self.numbers.give_back(model);
            if let Some(count) = self.known.get_mut(model) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(model);
                }
            }
        }
        if let Some((group, position)) = &endpoint.place {
            self.index.leave(*group, endpoint.facts.max_concurrency, position);
        }
        Some(endpoint)
    }

    /// Changes an endpoint, or what its failures led to, and moves it to where it then stands; without effect if the endpoint
    /// is gone.
    fn change(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint, &mut Trials)) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        change(endpoint, &mut self.trials);
        let trial = self.trials.of(id);
        let position = endpoint.position(&self.balancing, trial);
        let Some((group, place)) = &mut endpoint.place else { return };
        self.index.reposition(*group, place, &position);
        let was_closed = std::mem::replace(place, position).is_closed;
        if was_closed != position.is_closed {
            self.trials.set_online(id, true);
        }
    }
}
