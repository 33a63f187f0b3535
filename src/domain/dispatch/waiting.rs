//! The line: requests that wait for a lease, first come first served.
//!
//! Indexed by model and by deadline, so that a freed slot finds its next request, and the clock the next to expire,
//! without walking the line.

use std::collections::{BTreeSet, HashMap};

use crate::domain::ids::{ModelId, Ticket};
use crate::domain::request::LeaseRequest;
use crate::domain::time::Moment;

/// One waiting request.
pub struct Waiting {
    pub ticket: Ticket,
    pub request: LeaseRequest,
    pub arrived: Moment,
    pub deadline: Moment,
    /// The order of joining.
    place: u64,
}

/// The waiting requests.
#[derive(Default)]
pub struct WaitingLine {
    entries: HashMap<Ticket, Waiting>,
    by_model: HashMap<ModelId, BTreeSet<(u64, Ticket)>>,
    by_deadline: BTreeSet<(Moment, Ticket)>,
    next_place: u64,
}

impl WaitingLine {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a request at the end.
    pub fn join(&mut self, ticket: Ticket, request: LeaseRequest, arrived: Moment, deadline: Moment) {
        let place = self.next_place;
        self.next_place += 1;
        self.by_model.entry(request.model.clone()).or_default().insert((place, ticket));
        self.by_deadline.insert((deadline, ticket));
        self.entries.insert(ticket, Waiting { ticket, request, arrived, deadline, place });
    }

    /// Takes out the request of this ticket, if it waits.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.entries.remove(&ticket)?;
        self.by_deadline.remove(&(waiting.deadline, ticket));
        if let Some(places) = self.by_model.get_mut(&waiting.request.model) {
            places.remove(&(waiting.place, ticket));
            if places.is_empty() {
                self.by_model.remove(&waiting.request.model);
            }
        }
        Some(waiting)
    }

    /// Returns the request that has waited longest for one of these models.
    pub fn first_for(&self, models: &BTreeSet<ModelId>) -> Option<Ticket> {
        let firsts = models.iter().filter_map(|model| self.by_model.get(model)?.first());
        firsts.min().map(|(_, ticket)| *ticket)
    }

    /// Returns a request whose deadline has come.
    pub fn expired(&self, now: Moment) -> Option<Ticket> {
        let (deadline, ticket) = self.by_deadline.first()?;
        (*deadline <= now).then_some(*ticket)
    }

    /// Returns the earliest deadline.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Returns the models somebody waits for.
    pub fn models(&self) -> impl Iterator<Item = &ModelId> {
        self.by_model.keys()
    }

    /// Returns the tickets that wait for `model`, in the order they will be served.
    pub fn tickets_for(&self, model: &ModelId) -> Vec<Ticket> {
        let places = self.by_model.get(model).into_iter().flatten();
        places.map(|(_, ticket)| *ticket).collect()
    }

    /// Returns every ticket, in the order of joining.
    pub fn tickets(&self) -> Vec<Ticket> {
        let mut places: Vec<_> = self.by_model.values().flatten().copied().collect();
        places.sort_unstable();
        places.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Checks that the indexes agree with the entries.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        assert_eq!(self.entries.len(), self.by_deadline.len());
        assert_eq!(self.entries.len(), self.by_model.values().map(BTreeSet::len).sum::<usize>());
        for (ticket, waiting) in &self.entries {
            assert!(self.by_deadline.contains(&(waiting.deadline, *ticket)));
            assert!(self.by_model[&waiting.request.model].contains(&(waiting.place, *ticket)));
        }
    }
}
