//! The line: requests that wait for a lease, round robin between clients, first come first served within one.
//!
//! Clients that wait stand in a ring. A freed slot goes to the first client in the ring that has a request the slot can
//! serve, to that client's oldest such request, and only that client moves to the end of the ring. Both the ring and each
//! client's requests are a [`ModelQueue`], so that a freed slot finds its request without walking the line. A client that
//! waits for nothing takes no memory, nor does an empty line.

use std::collections::{BTreeSet, HashMap};

use super::Queued;
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
    /// What it was told when it joined.
    pub queued: Queued,
    /// In its client's queue.
    place: usize,
}

/// One client that waits.
#[derive(Debug, Default)]
struct Client {
    /// In the ring.
    place: usize,
    queue: ModelQueue<Ticket>,
    /// How many of its requests are for a model, by the model's number.
    counts: Vec<(usize, usize)>,
}

impl Client {
    fn count(&self, models: &ModelSet) -> usize {
        self.counts.iter().filter(|(number, _)| models.contains(*number)).map(|(_, count)| count).sum()
    }

    fn add(&mut self, number: usize) {
        match self.counts.iter_mut().find(|(known, _)| *known == number) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((number, 1)),
        }
    }

    fn subtract(&mut self, number: usize) {
        if let Some(at) = self.counts.iter().position(|(known, _)| *known == number) {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.swap_remove(at);
            }
        }
    }
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

    /// Returns the place, from 1, in the order of service that a request of this client would have if it joined now, among
    /// the requests for these models.
    ///
    /// A client's n-th request is served in the n-th round: before it come n − 1 of its own, up to n of each client that
    /// stands before it in the ring, and up to n − 1 of each behind it.
    pub fn position(&self, client: &ClientId, models: &ModelSet) -> usize {
        let own = self.clients.get(client).map_or(0, |client| client.count(models));
        let mut position = own + 1;
        let mut round = own + 1;
        for id in self.ring.iter() {
            if id == client {
                round = own;
            } else {
                position += self.clients[id].count(models).min(round);
            }
        }
        position
    }

    /// Adds a request behind its client's others, and its client, if it is new, at the end of the ring.
    pub fn join(
        &mut self,
        numbers: &mut ModelNumbers,
        ticket: Ticket,
        request: LeaseRequest,
        arrived: Moment,
        deadline: Moment,
        queued: Queued,
    ) {
        let number = numbers.take(&request.model);
        let models = ModelSet::of(number);
        let (entries, id) = (&mut self.entries, request.client.clone());
        let is_new = !self.clients.contains_key(&id);
        let client = self.clients.entry(id.clone()).or_default();
        let place = client.queue.push(ticket, models, |moved, place| {
            if let Some(entry) = entries.get_mut(moved) {
                entry.place = place;
            }
        });
        client.add(number);
        if is_new {
            self.enter_ring(id);
        } else {
            self.ring.set(client.place, client.queue.models());
        }
        *self.by_model.entry(request.model.clone()).or_default() += 1;
        self.by_deadline.insert((deadline, ticket));
        self.entries.insert(ticket, Waiting { ticket, request, arrived, deadline, queued, place });
    }

    /// Takes out the request of this ticket, if it waits. Its client keeps its place in the ring.
    pub fn leave(&mut self, numbers: &mut ModelNumbers, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.entries.remove(&ticket)?;
        let model = &waiting.request.model;
        let number = numbers.get(model);
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
            number.into_iter().for_each(|number| client.subtract(number));
            if client.queue.is_empty() {
                self.ring.remove(client.place);
                self.clients.remove(&waiting.request.client);
            } else {
                self.ring.set(client.place, client.queue.models());
            }
        }
        if self.entries.is_empty() {
            // Gives back what the longest line has taken.
            *self = Self::default();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::request::ApiKind;

    const MODELS: [&str; 3] = ["a", "b", "c"];

    /// One action: a request of a client for a model joins, or a slot for some models takes one out.
    type Action = (bool, u8, usize);

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        proptest::collection::vec((proptest::bool::weighted(0.75), 0_u8..4, 0_usize..3), 0..60)
    }

    struct Scene {
        line: WaitingLine,
        numbers: ModelNumbers,
        next_ticket: u64,
    }

    impl Scene {
        /// Returns a line after these actions. The models have the numbers of their places.
        fn after(actions: &[Action]) -> Self {
            let mut numbers = ModelNumbers::default();
            MODELS.iter().for_each(|model| assert!(numbers.take(&ModelId::from(*model)) < MODELS.len()));
            let mut scene = Self { line: WaitingLine::default(), numbers, next_ticket: 0 };
            for (joins, client, model) in actions {
                if *joins {
                    scene.join(*client, *model);
                } else {
                    scene.line.take_next(&mut scene.numbers, &ModelSet::of(*model));
                }
            }
            scene
        }

        fn join(&mut self, client: u8, model: usize) -> Ticket {
            self.join_as(ClientId::Named([client].into()), model)
        }

        fn join_as(&mut self, client: ClientId, model: usize) -> Ticket {
            let request =
                LeaseRequest { model: ModelId::from(MODELS[model]), api_kind: ApiKind::ChatCompletions, client };
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let queued = Queued { position: 0, estimated_wait: None };
            let (now, deadline) = (Moment::from_micros(0), Moment::from_micros(1));
            self.line.join(&mut self.numbers, ticket, request, now, deadline, queued);
            ticket
        }
    }

    proptest! {
        #[test]
        fn the_position_is_the_place_in_the_order_of_service(
            actions in actions(),
            (client, model) in (0_u8..4, 0_usize..3),
            competing in proptest::collection::vec(0_usize..3, 0..3),
        ) {
            let mut scene = Scene::after(&actions);
            let mut models = ModelSet::of(model);
            competing.into_iter().for_each(|model| models.insert(model));
            let position = scene.line.position(&ClientId::Named([client].into()), &models);
            let ticket = scene.join(client, model);
            let mut served = std::iter::from_fn(|| scene.line.take_next(&mut scene.numbers, &models));
            prop_assert_eq!(served.position(|waiting| waiting.ticket == ticket), Some(position - 1));
        }

        #[test]
        fn between_two_turns_of_a_client_every_other_has_at_most_one(actions in actions()) {
            let mut scene = Scene::after(&actions);
            let mut models = ModelSet::default();
            (0..MODELS.len()).for_each(|model| models.insert(model));
            let mut turns: Vec<ClientId> = Vec::new();
            while let Some(waiting) = scene.line.take_next(&mut scene.numbers, &models) {
                let client = waiting.request.client;
                let since = turns.iter().rposition(|earlier| *earlier == client).map_or(0, |last| last + 1);
                let others = &turns[since..];
                let twice = others.iter().enumerate().find(|(at, other)| others[..*at].contains(other));
                prop_assert!(twice.is_none(), "{twice:?} had two turns while {client:?} waited");
                turns.push(client);
            }
            prop_assert_eq!(scene.line.len(), 0);
            prop_assert!(scene.line.clients.is_empty() && scene.line.ring.is_empty() && scene.line.by_model.is_empty());
        }
    }

    #[test]
    fn a_hundred_thousand_clients_leave_nothing_behind() {
        let mut scene = Scene::after(&[]);
        for number in 0..100_000_u32 {
            scene.join_as(ClientId::Named(number.to_be_bytes().into()), 0);
        }
        while scene.line.take_next(&mut scene.numbers, &ModelSet::of(0)).is_some() {}
        assert_eq!((scene.line.entries.capacity(), scene.line.clients.capacity()), (0, 0));
    }
}
