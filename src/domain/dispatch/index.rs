//! The online endpoints in the order in which they are chosen, to be found by the models that they serve.
//!
//! A model that few endpoints serve has a list of these endpoints, and a choice walks the list. A model that many
//! endpoints serve has a column in [`Rows`], by which a choice finds the best of these endpoints in an [`Order`] of all
//! endpoints. Therefore a choice takes the same time whatever the number of endpoints and model sets. A grant or a
//! release moves one place, whatever the number of models that the endpoint serves.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use slab::Slab;

use super::choose::{Rank, Shortlist, Standing};
use super::model_set::ModelSet;
use super::models::ModelNumber;
use super::order::{Order, Place, Rows};
use crate::domain::ids::EndpointId;

/// How many endpoints serve a model at most before the model gets a column.
const FEW_MAX: usize = 16;

/// How many endpoints must still serve a model so that it keeps its column.
const MANY_MIN: usize = 8;

/// Whether a request can be granted on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// No slot is free.
    Full,
    /// A slot is free.
    Free,
    /// A slot is free, but the endpoint's breaker keeps requests away.
    Skipped,
}

/// Everything that decides where an online endpoint stands in the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The endpoint.
    pub id: EndpointId,
    /// The rank that the policy gives the endpoint.
    pub standing: Standing,
    /// The number of the grant that last chose the endpoint; the smallest is next.
    pub turn: u64,
    /// The endpoint's breaker is closed.
    pub is_closed: bool,
    /// Whether a request can be granted on the endpoint.
    pub availability: Availability,
}

/// Identifies an endpoint in the index until the endpoint leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberKey(usize);

/// An online endpoint.
struct Member {
    position: Position,
    models: Arc<[ModelNumber]>,
    slots: u64,
}

impl Member {
    fn place(&self, MemberKey(row): MemberKey, rank: Rank) -> Place {
        Place { rank, turn: self.position.turn, id: self.position.id, row }
    }
}

/// The endpoints that serve one model.
#[derive(Default)]
struct Served {
    /// The keys of the endpoints that serve the model.
    members: BTreeSet<usize>,
    /// How many of these endpoints have a closed breaker.
    closed: usize,
    /// The slots of these endpoints together, free or not.
    slots: u64,
    /// The model's column; `None` while few endpoints serve the model.
    column: Option<usize>,
    /// All models that these endpoints serve; computed when first asked for.
    competing: OnceCell<ModelSet>,
}

/// The online endpoints.
#[derive(Default)]
pub struct Index {
    members: Slab<Member>,
    /// The endpoints of each model, by the model's number.
    served: Vec<Served>,
    /// The model of each column.
    columns: Slab<ModelNumber>,
    rows: Rows,
    /// Endpoints with a free slot that are neither skipped nor strained.
    calm: Order,
    /// Endpoints with a free slot that are strained and not skipped.
    strained: Order,
    /// The endpoints of `strained` in turn, suspects last.
    strained_in_turn: Order,
    /// Endpoints with a free slot that are skipped.
    skipped: Order,
}

impl Index {
    /// Adds an endpoint. `models` are the models that it serves, sorted and without repetition; `slots` are all its
    /// slots.
    pub fn enter(&mut self, models: Arc<[ModelNumber]>, slots: u32, position: Position) -> MemberKey {
        let slots = u64::from(slots);
        let key = MemberKey(self.members.insert(Member { position, models: models.clone(), slots }));
        for model in models.iter() {
            if self.served.len() <= model.0 {
                self.served.resize_with(model.0 + 1, Served::default);
            }
            let served = &mut self.served[model.0];
            served.members.insert(key.0);
            served.closed += usize::from(position.is_closed);
            served.slots += slots;
            if let Some(competing) = served.competing.get_mut() {
                models.iter().for_each(|model| competing.insert(model.0));
            }
            match served.column {
                Some(column) => self.rows.set(key.0, column, true),
                None if served.members.len() > FEW_MAX => self.give_column(*model),
                None => {}
            }
        }
        self.put(key, true);
        key
    }

    /// Takes an endpoint out.
    pub fn leave(&mut self, key: MemberKey) {
        self.put(key, false);
        let Member { position, models, slots } = self.members.remove(key.0);
        for model in models.iter() {
            let served = &mut self.served[model.0];
            served.members.remove(&key.0);
            served.closed -= usize::from(position.is_closed);
            served.slots -= slots;
            served.competing.take();
            let Some(column) = served.column else { continue };
            self.rows.set(key.0, column, false);
            if served.members.len() < MANY_MIN {
                served.column = None;
                served.members.iter().for_each(|row| self.rows.set(*row, column, false));
                self.columns.remove(column);
            }
        }
    }

    /// Moves an endpoint to another position.
    pub fn reposition(&mut self, key: MemberKey, position: Position) {
        let before = self.members[key.0].position;
        if before == position {
            return;
        }
        self.put(key, false);
        self.members[key.0].position = position;
        self.put(key, true);
        if before.is_closed != position.is_closed {
            for model in self.members[key.0].models.iter() {
                let closed = &mut self.served[model.0].closed;
                *closed = if position.is_closed { *closed + 1 } else { *closed - 1 };
            }
        }
    }

    /// Returns an endpoint's position.
    pub fn position(&self, key: MemberKey) -> &Position {
        &self.members[key.0].position
    }

    /// Returns the best endpoints that serve a model, have a free slot and are not `excluded`. A skipped endpoint is
    /// listed only if no endpoint of the model has a closed breaker.
    pub fn shortlist(&self, model: ModelNumber, excluded: &impl Fn(&EndpointId) -> bool) -> Shortlist {
        let mut list = Shortlist::default();
        let Some(served) = self.served.get(model.0) else { return list };
        let is_last_resort = served.closed == 0;
        let Some(column) = served.column else {
            self.list_few(served, excluded, is_last_resort, &mut list);
            return list;
        };
        let eligible = |place: &&Place| !excluded(&place.id);
        let best = |order: &'_ Order, list: &mut Shortlist| {
            order.serving(&self.rows, column).filter(eligible).take(Shortlist::MAX).for_each(|place| list.add(*place));
        };
        best(&self.calm, &mut list);
        let has_calm = list.best().is_some();
        best(&self.strained, &mut list);
        if is_last_resort {
            best(&self.skipped, &mut list);
        } else if !has_calm {
            list.in_turn = self.strained_in_turn.serving(&self.rows, column).find(eligible).copied();
        }
        list
    }

    /// Makes the shortlist of a model that few endpoints serve.
    fn list_few(
        &self,
        served: &Served,
        excluded: &impl Fn(&EndpointId) -> bool,
        is_last_resort: bool,
        list: &mut Shortlist,
    ) {
        let mut has_calm = false;
        for key in &served.members {
            let member = &self.members[*key];
            let Position { id, standing, availability, .. } = member.position;
            let is_candidate =
                availability == Availability::Free || (availability == Availability::Skipped && is_last_resort);
            if !is_candidate || excluded(&id) {
                continue;
            }
            list.add(member.place(MemberKey(*key), standing.rank));
            has_calm |= !standing.is_strained;
            if has_calm || is_last_resort {
                continue;
            }
            let in_turn = member.place(MemberKey(*key), standing.rank.in_turn());
            if list.in_turn.is_none_or(|other| in_turn < other) {
                list.in_turn = Some(in_turn);
            }
        }
        if has_calm || is_last_resort {
            list.in_turn = None;
        }
    }

    /// Tells whether an online endpoint serves a model.
    pub fn serves(&self, model: ModelNumber) -> bool {
        self.served.get(model.0).is_some_and(|served| !served.members.is_empty())
    }

    /// Returns how many endpoints serve a model, and how many of them have a closed breaker.
    pub fn members(&self, model: ModelNumber) -> (usize, usize) {
        self.served.get(model.0).map_or((0, 0), |served| (served.members.len(), served.closed))
    }

    /// Returns how many slots, free or not, could serve a model, and all models that compete for these slots, including
    /// the model itself.
    pub fn competition(&self, model: ModelNumber) -> (u64, Cow<'_, ModelSet>) {
        let Some(served) = self.served.get(model.0) else { return (0, Cow::Owned(ModelSet::of(model.0))) };
        let competing = served.competing.get_or_init(|| {
            let mut competing = ModelSet::of(model.0);
            let members = served.members.iter().flat_map(|key| self.members[*key].models.iter());
            members.for_each(|model| competing.insert(model.0));
            competing
        });
        (served.slots, Cow::Borrowed(competing))
    }

    /// Checks that every endpoint is in the orders of its position and in no other, and that the data of each model
    /// agree with its endpoints.
    ///
    /// # Panics
    /// If one of these does not hold.
    pub fn assert_consistent(&self) {
        let [mut calm, mut strained, mut skipped] = [0; 3];
        for (row, member) in &self.members {
            let Position { standing, availability, .. } = member.position;
            let place = member.place(MemberKey(row), standing.rank);
            let is_free = availability == Availability::Free;
            calm += usize::from(is_free && !standing.is_strained);
            strained += usize::from(is_free && standing.is_strained);
            skipped += usize::from(availability == Availability::Skipped);
            assert_eq!(self.calm.contains(&place), is_free && !standing.is_strained);
            assert_eq!(self.strained.contains(&place), is_free && standing.is_strained);
            assert_eq!(self.skipped.contains(&place), availability == Availability::Skipped);
        }
        let counted = [&self.calm, &self.strained, &self.strained_in_turn, &self.skipped].map(Order::len);
        assert_eq!(counted, [calm, strained, strained, skipped], "every place is an endpoint's");
        for (number, served) in self.served.iter().enumerate() {
            let members = || served.members.iter().map(|key| &self.members[*key]);
            assert!(members().all(|member| member.models.binary_search(&ModelNumber(number)).is_ok()));
            assert_eq!(served.closed, members().filter(|member| member.position.is_closed).count());
            assert_eq!(served.slots, members().map(|member| member.slots).sum::<u64>());
            assert_eq!(served.column.is_some(), served.column.is_some_and(|column| self.columns.contains(column)));
        }
        let named: usize = self.members.iter().map(|(_, member)| member.models.len()).sum();
        assert_eq!(named, self.served.iter().map(|served| served.members.len()).sum::<usize>());
    }

    /// Gives a model a column and marks the column in the rows of the model's endpoints.
    fn give_column(&mut self, model: ModelNumber) {
        let column = self.columns.insert(model);
        self.served[model.0].column = Some(column);
        for key in &self.served[model.0].members {
            self.rows.set(*key, column, true);
            let member = &self.members[*key];
            let Position { standing, .. } = member.position;
            let place = member.place(MemberKey(*key), standing.rank);
            let in_turn = member.place(MemberKey(*key), standing.rank.in_turn());
            let orders = [&mut self.calm, &mut self.strained, &mut self.skipped];
            for (order, place) in
                orders.into_iter().map(|order| (order, place)).chain([(&mut self.strained_in_turn, in_turn)])
            {
                if order.contains(&place) {
                    order.widened(&self.rows, &place);
                }
            }
        }
    }

    /// Puts an endpoint into the orders of its position if `is_in`; else takes it out of them.
    fn put(&mut self, key: MemberKey, is_in: bool) {
        let member = &self.members[key.0];
        let Position { standing, availability, .. } = member.position;
        let (place, in_turn) = (member.place(key, standing.rank), member.place(key, standing.rank.in_turn()));
        let rows = &self.rows;
        let put = |order: &mut Order, place: Place| {
            if is_in { order.insert(rows, place) } else { order.remove(rows, &place) }
        };
        match availability {
            Availability::Full => {}
            Availability::Skipped => put(&mut self.skipped, place),
            Availability::Free if standing.is_strained => {
                put(&mut self.strained, place);
                put(&mut self.strained_in_turn, in_turn);
            }
            Availability::Free => put(&mut self.calm, place),
        }
    }
}
