//! Who is best: the online endpoints in the order in which they are chosen.
//!
//! Endpoints that serve the same set of models form a group. Within a group those with a free slot are kept ordered by
//! rank and turn, so that choosing looks at two endpoints per group and a grant or a release touches one group only.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::choose::{Balancing, Rank, Standing};
use super::decision::GrantReason;
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::LeaseRequest;

/// The models of a group.
pub type ModelNames = Arc<BTreeSet<ModelId>>;

/// Identifies a group for as long as it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u64);

/// Whether a request can be granted on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// No slot is free.
    Full,
    /// A slot is free.
    Free,
    /// A slot is free, but the endpoint's breaker keeps requests away.
    Skipped,
}

/// Where an online endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The endpoint.
    pub id: EndpointId,
    /// Its rank.
    pub standing: Standing,
    /// When it was last chosen, as a count of grants: the smallest is next.
    pub turn: u64,
    /// It has failed a request lately.
    pub is_suspect: bool,
    /// Its breaker is closed.
    pub is_closed: bool,
    /// Whether a request can be granted on it.
    pub room: Room,
}

impl Position {
    /// Returns its places among the free of its group, and among the strained.
    fn places(&self) -> ((Rank, u64, EndpointId), (bool, u64, EndpointId)) {
        ((self.standing.rank, self.turn, self.id), (self.is_suspect, self.turn, self.id))
    }
}

/// The online endpoints that serve the same models.
struct Group {
    models: ModelNames,
    members: usize,
    /// Of all members, free or not.
    slots: u64,
    /// Members whose breaker is closed.
    closed: usize,
    /// Those with a free slot, the best first.
    free: BTreeSet<(Rank, u64, EndpointId)>,
    /// Those with a free slot that are skipped, the best first; not among the free.
    skipped: BTreeSet<(Rank, u64, EndpointId)>,
    /// Those of the free that are strained, by turn, suspects last.
    strained: BTreeSet<(bool, u64, EndpointId)>,
}

impl Group {
    /// Takes up where an endpoint stands.
    fn add(&mut self, position: &Position) {
        let (place, strained) = position.places();
        self.closed += usize::from(position.is_closed);
        match position.room {
            Room::Full => {}
            Room::Skipped => drop(self.skipped.insert(place)),
            Room::Free => {
                self.free.insert(place);
                if position.standing.is_strained {
                    self.strained.insert(strained);
                }
            }
        }
    }

    /// Forgets where an endpoint stood, which must be as it was added.
    fn take_out(&mut self, position: &Position) {
        let (place, strained) = position.places();
        self.closed -= usize::from(position.is_closed);
        match position.room {
            Room::Full => {}
            Room::Skipped => drop(self.skipped.remove(&place)),
            Room::Free => {
                self.free.remove(&place);
                if position.standing.is_strained {
                    self.strained.remove(&strained);
                }
            }
        }
    }
}

/// The online endpoints, by the models they serve.
pub struct Index {
    groups: HashMap<GroupId, Group>,
    group_of: HashMap<ModelNames, GroupId>,
    by_model: HashMap<ModelId, BTreeSet<GroupId>>,
    next_group: u64,
}

impl Index {
    /// Creates an index without endpoints.
    pub fn new() -> Self {
        Self { groups: HashMap::new(), group_of: HashMap::new(), by_model: HashMap::new(), next_group: 0 }
    }

    /// Adds an endpoint that serves these models with so many slots.
    pub fn enter(&mut self, models: &ModelNames, slots: u32, position: &Position) -> GroupId {
        let group_id = self.group_for(models);
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.members += 1;
            group.slots += u64::from(slots);
            group.add(position);
        }
        group_id
    }

    /// Takes an endpoint out that stood there and had so many slots.
    pub fn leave(&mut self, group_id: GroupId, slots: u32, position: &Position) {
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.take_out(position);
        group.members -= 1;
        group.slots -= u64::from(slots);
        if group.members > 0 {
            return;
        }
        let models = group.models.clone();
        self.groups.remove(&group_id);
        self.group_of.remove(&models);
        for model in models.iter() {
            if let Some(groups) = self.by_model.get_mut(model) {
                groups.remove(&group_id);
                if groups.is_empty() {
                    self.by_model.remove(model);
                }
            }
        }
    }

    /// Moves an endpoint from one position to another.
    pub fn reposition(&mut self, group_id: GroupId, from: &Position, to: &Position) {
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.take_out(from);
            group.add(to);
        }
    }

    /// Returns the endpoint to grant a request on, of those with a free slot that have not failed it, and why that one.
    /// `tried_and_calm` endpoints have failed the request, have a free slot for it, are not skipped and not strained.
    pub fn choose(
        &self,
        balancing: &Balancing,
        request: &LeaseRequest,
        tried_and_calm: usize,
    ) -> Option<(EndpointId, GrantReason)> {
        let groups = || self.groups_of(&request.model);
        let is_untried = |place: &&(Rank, u64, EndpointId)| !request.tried.contains(&place.2);
        let none_closed = !self.has_closed(&request.model);
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
        let calm: usize = groups().map(|group| group.free.len() - group.strained.len()).sum();
        if !none_closed && calm == tried_and_calm {
            let strained =
                groups().filter_map(|group| group.strained.iter().find(|(.., id)| !request.tried.contains(id)));
            return Some((strained.min()?.2, GrantReason::RoundRobin));
        }
        Some((*id, balancing.reason(rank, next_rank)))
    }

    /// Tells whether an endpoint serves a model.
    pub fn serves(&self, model: &ModelId) -> bool {
        self.by_model.contains_key(model)
    }

    /// Tells whether an endpoint that serves the model has a closed breaker.
    pub fn has_closed(&self, model: &ModelId) -> bool {
        self.groups_of(model).any(|group| group.closed > 0)
    }

    /// Returns how many endpoints serve the model, and how many of them have a closed breaker.
    pub fn members(&self, model: &ModelId) -> (usize, usize) {
        self.groups_of(model).fold((0, 0), |(members, closed), group| (members + group.members, closed + group.closed))
    }

    /// Returns how many slots could serve `model`, free or not, and the model sets of the endpoints that have them.
    pub fn competition(&self, model: &ModelId) -> (u64, impl Iterator<Item = &ModelNames>) {
        let slots = self.groups_of(model).map(|group| group.slots).sum();
        (slots, self.groups_of(model).map(|group| &group.models))
    }

    /// Checks that an endpoint is found where it stands, and nowhere else.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_holds(&self, group: GroupId, position: &Position) {
        let (place, by_turn) = position.places();
        let group = &self.groups[&group];
        let is_free = position.room == Room::Free;
        assert_eq!(group.free.contains(&place), is_free, "free endpoints are exactly those with a free slot");
        let is_strained = is_free && position.standing.is_strained;
        assert_eq!(group.strained.contains(&by_turn), is_strained, "strained endpoints are found by turn");
        let is_skipped = position.room == Room::Skipped;
        assert_eq!(group.skipped.contains(&place), is_skipped, "skipped endpoints are not free");
    }

    /// Checks that the index holds so many endpoints, of which so many have a closed breaker.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_counts(&self, members: usize, closed: usize) {
        assert_eq!(members, self.groups.values().map(|group| group.members).sum::<usize>());
        assert_eq!(closed, self.groups.values().map(|group| group.closed).sum::<usize>());
        assert!(self.groups.values().all(|group| group.free.len() <= group.members && group.members > 0));
        assert!(self.by_model.values().all(|groups| !groups.is_empty()));
    }

    fn groups_of(&self, model: &ModelId) -> impl Iterator<Item = &Group> {
        self.by_model.get(model).into_iter().flatten().map(|group| &self.groups[group])
    }

    fn group_for(&mut self, models: &ModelNames) -> GroupId {
        if let Some(group) = self.group_of.get(models) {
            return *group;
        }
        let group_id = GroupId(self.next_group);
        self.next_group += 1;
        self.group_of.insert(models.clone(), group_id);
        let group = Group {
            models: models.clone(),
            members: 0,
            slots: 0,
            closed: 0,
            free: BTreeSet::new(),
            skipped: BTreeSet::new(),
            strained: BTreeSet::new(),
        };
        self.groups.insert(group_id, group);
        for model in models.iter() {
            self.by_model.entry(model.clone()).or_default().insert(group_id);
        }
        group_id
    }
}
