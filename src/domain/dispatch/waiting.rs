//! The line: requests that wait for a lease, round robin between clients, first come first served within one.
//!
//! Clients that wait stand in a ring. A freed slot goes to the first client in the ring that has a request the slot can
//! serve, to that client's oldest such request, and only that client moves to the end of the ring. Both the ring and each
//! client's requests are a [`ModelQueue`], so that a freed slot finds its request without walking the line. A client that
//! waits for nothing takes no memory.

use std::collections::{BTreeSet, HashMap};

use super::model_queue::ModelQueue;
use super::model_set::{ModelNumbers, ModelSet};
use crate::domain::ids::{ClientId, ModelId, Ticket};
use crate::domain::request::LeaseRequest;
use crate::domain::time::Moment;

/// One waiting request.
#[derive(Debug)]
pub struct Waiting {
    pub ticket: Ticket,
    pub request: LeaseRequest,
    pub arrived: Moment,
    pub deadline: Moment,
    /// In its client's queue.
    place: usize,
}

/// One client that waits.
#[derive(Debug, Default)]
struct Client {
    /// In the ring.
    place: usize,
    queue: ModelQueue<Ticket>,
}

/// The waiting requests.
#[derive(Debug, Default)]
pub struct WaitingLine {
    entries: HashMap<Ticket, Waiting>,
    clients: HashMap<ClientId, Client>,
    ring: ModelQueue<ClientId>,
    by_deadline: BTreeSet<(Moment, Ticket)>,
    by_model: HashMap<ModelId, usize>,
}

impl WaitingLine {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a request behind its client's others, and its client, if it is new, at the end of the ring.
    pub fn join(
        &mut self,
        numbers: &mut ModelNumbers,
        ticket: Ticket,
        request: LeaseRequest,
        arrived: Moment,
        deadline: Moment,
    ) {
        let models = ModelSet::of(numbers.take(&request.model));
        let (entries, id) = (&mut self.entries, request.client.clone());
        let is_new = !self.clients.contains_key(&id);
        let client = self.clients.entry(id.clone()).or_default();
        let place = client.queue.push(ticket, models, |moved, place| {
            if let Some(entry) = entries.get_mut(moved) {
                entry.place = place;
            }
        });
        if is_new {
            self.enter_ring(id);
        } else {
            self.ring.set(client.place, client.queue.models());
        }
        *self.by_model.entry(request.model.clone()).or_default() += 1;
        self.by_deadline.insert((deadline, ticket));
        self.entries.insert(ticket, Waiting { ticket, request, arrived, deadline, place });
    }

    /// Takes out the request of this ticket, if it waits. Its client keeps its place in the ring.
    pub fn leave(&mut self, numbers: &mut ModelNumbers, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.entries.remove(&ticket)?;
        let model = &waiting.request.model;
        numbers.give_back(model);
        self.by_deadline.remove(&(waiting.deadline, ticket));
        if let Some(count) = self.by_model.get_mut(model) {
            *count -= 1;
            if *count == 0 {
                self.by_model.remove(model);
            }
        }
        if let Some(client) = self.clients.get_mut(&waiting.request.client) {
            client.queue.remove(waiting.place);
            if client.queue.is_empty() {
                self.ring.remove(client.place);
                self.clients.remove(&waiting.request.client);
            } else {
                self.ring.set(client.place, client.queue.models());
            }
        }
        Some(waiting)
    }

    /// Takes out the request that is next for one of these models; its client goes to the end of the ring.
    pub fn take_next(&mut self, numbers: &mut ModelNumbers, models: &ModelSet) -> Option<Waiting> {
        let place = self.ring.first(models)?;
        let id = self.ring.get(place)?.clone();
        let queue = &self.clients.get(&id)?.queue;
        let ticket = *queue.get(queue.first(models)?)?;
        let waiting = self.leave(numbers, ticket);
        if self.clients.contains_key(&id) {
            self.ring.remove(place);
            self.enter_ring(id);
        }
        waiting
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

    /// Returns the waiting requests, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.entries.values()
    }

    /// Checks that the indexes agree with the entries.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        assert_eq!(self.entries.len(), self.by_deadline.len());
        assert_eq!(self.entries.len(), self.by_model.values().sum::<usize>());
        assert_eq!(self.entries.len(), self.clients.values().map(|client| client.queue.len()).sum::<usize>());
        assert_eq!(self.clients.len(), self.ring.len());
        for (ticket, waiting) in &self.entries {
            let client = &self.clients[&waiting.request.client];
            assert!(self.by_deadline.contains(&(waiting.deadline, *ticket)));
            assert_eq!(client.queue.get(waiting.place), Some(ticket));
            assert_eq!(self.ring.get(client.place), Some(&waiting.request.client));
        }
    }

    fn enter_ring(&mut self, id: ClientId) {
        let clients = &mut self.clients;
        let Some(models) = clients.get(&id).map(|client| client.queue.models()) else { return };
        let place = self.ring.push(id.clone(), models, |moved, place| {
            if let Some(client) = clients.get_mut(moved) {
                client.place = place;
            }
        });
        if let Some(client) = clients.get_mut(&id) {
            client.place = place;
        }
    }
}
