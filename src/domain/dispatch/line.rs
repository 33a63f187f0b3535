//! The line: requests that wait for a lease, round robin between clients, first come first served within a client.
//!
//! Clients that wait stand in a ring. A freed slot goes to the first client in the ring that has a request that the
//! slot can serve, and to the oldest such request of this client. Only this client then moves to the end of the ring.
//! The ring and the requests of each client are a [`ModelQueue`], so that a freed slot finds its request without
//! walking the line. A client without waiting requests takes no memory, and neither does an empty line.
//!
//! The clients of a key that holds as many leases as it may stand aside: they keep their places in the ring, but without
//! models, so that no slot finds them.

mod accounts;
mod positions;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use slab::Slab;

use self::accounts::Accounts;
use super::decision::Queued;
use super::fleet::Slot;
use super::limits::{AccountNumber, Charge};
use super::model_queue::ModelQueue;
use super::model_set::ModelSet;
use super::models::ModelNumber;
use crate::domain::ids::{ClientId, Ticket};
use crate::domain::request::LeaseRequest;
use crate::domain::time::Moment;

/// One waiting request.
#[derive(Debug)]
pub struct WaitingRequest {
    /// Identifies the request until the dispatcher has answered it.
    pub ticket: Ticket,
    /// What the request asks for.
    pub request: Arc<LeaseRequest>,
    /// The number of the request's model. The request counts as a user of the model.
    pub model: ModelNumber,
    /// When the request arrived.
    pub arrived: Moment,
    /// The request is refused if it has no lease by this time.
    pub deadline: Moment,
    /// What the request was told when it joined.
    pub queued: Queued,
    /// What the request's key was charged; `None` without a key.
    pub charge: Option<Charge>,
}

impl WaitingRequest {
    /// Returns a request that has just come, before it waits.
    pub fn new(
        now: Moment,
        ticket: Ticket,
        (request, model): (Arc<LeaseRequest>, ModelNumber),
        deadline: Moment,
        charge: Option<Charge>,
    ) -> Self {
        let queued = Queued { position: 1, estimated_wait: None };
        Self { ticket, request, model, arrived: now, deadline, queued, charge }
    }

    /// Returns the account of the request's key; `None` without a key.
    pub fn account(&self) -> Option<AccountNumber> {
        self.charge.map(|charge| charge.account)
    }
}

/// A request in this line.
#[derive(Debug)]
struct Entry {
    waiting: WaitingRequest,
    /// When the request's time in this line is over.
    until: Moment,
    /// The key of the request's client.
    client: usize,
    /// The place in the client's queue.
    place: usize,
}

/// One client with waiting requests.
#[derive(Debug)]
struct Client {
    id: ClientId,
    /// The place in the ring.
    place: usize,
    queue: ModelQueue<Ticket>,
    /// The account of the client's key; `None` without a key.
    account: Option<AccountNumber>,
    /// The client's key holds as many leases as it may.
    is_aside: bool,
}

impl Client {
    /// Returns the models for which slots find the client.
    fn models(&self) -> ModelSet {
        if self.is_aside { ModelSet::default() } else { self.queue.models() }
    }
}

/// The requests for one model.
#[derive(Debug, Default)]
struct Demand {
    total: usize,
    /// The number of requests of each client, by the client's key.
    by_client: HashMap<usize, usize>,
}

/// The requests that wait in one stage.
#[derive(Debug, Default)]
pub struct Line {
    entries: HashMap<Ticket, Entry>,
    clients: Slab<Client>,
    keys: HashMap<ClientId, usize>,
    /// The keys of the clients; the first is served next.
    ring: ModelQueue<usize>,
    by_end: BTreeSet<(Moment, Ticket)>,
    /// The requests for each model.
    demand: HashMap<ModelNumber, Demand>,
    accounts: Accounts,
    /// How many of the requests are retries.
    retries: usize,
}

impl Line {
    /// Returns how many requests wait in this line.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many of the requests are retries.
    pub fn retries(&self) -> usize {
        self.retries
    }

    /// Adds a request behind the other requests of its client, or before them if it is a retry. A client that is not in
    /// the ring joins its end, and stands aside there if `is_aside`.
    pub fn join(&mut self, waiting: WaitingRequest, until: Moment, is_aside: bool) {
        let account = waiting.account();
        let WaitingRequest { ticket, ref request, model, .. } = waiting;
        let (entries, clients) = (&mut self.entries, &mut self.clients);
        let known = self.keys.get(&request.client).copied();
        let key = known.unwrap_or_else(|| {
            let id = request.client.clone();
            clients.insert(Client { id, place: 0, queue: ModelQueue::default(), account, is_aside })
        });
        let moved = |moved: &Ticket, place| {
            if let Some(entry) = entries.get_mut(moved) {
                entry.place = place;
            }
        };
        let (queue, models) = (&mut clients[key].queue, ModelSet::of(model.0));
        let place = if request.is_retry() {
            self.retries += 1;
            queue.push_front(ticket, models, moved)
        } else {
            queue.push(ticket, models, moved)
        };
        if known.is_none() {
            self.keys.insert(request.client.clone(), key);
            self.enter_ring(key);
        } else {
            self.ring.set(self.clients[key].place, self.clients[key].models());
        }
        if let Some(account) = account {
            self.accounts.add(account, key, model);
        }
        let demand = self.demand.entry(model).or_default();
        demand.total += 1;
        *demand.by_client.entry(key).or_default() += 1;
        self.by_end.insert((until, ticket));
        self.entries.insert(ticket, Entry { waiting, until, client: key, place });
    }

    /// Takes out the request with this ticket; `None` if it does not wait. The request's client keeps its place in the
    /// ring.
    pub fn leave(&mut self, ticket: Ticket) -> Option<WaitingRequest> {
        let Entry { waiting, until, client: key, place } = self.entries.remove(&ticket)?;
        self.retries -= usize::from(waiting.request.is_retry());
        self.by_end.remove(&(until, ticket));
        self.subtract(waiting.model, key);
        let client = &mut self.clients[key];
        client.queue.remove(place);
        let is_last = client.queue.is_empty();
        if let Some(account) = waiting.account() {
            self.accounts.subtract(account, key, waiting.model, is_last);
        }
        if is_last {
            self.ring.remove(client.place);
            self.keys.remove(&client.id);
            self.clients.remove(key);
        } else {
            self.ring.set(client.place, client.models());
        }
        if self.entries.is_empty() {
            // An empty line gives its memory back.
            *self = Self::default();
        }
        Some(waiting)
    }

    /// Takes out the request that is next for a slot; `None` if no request can use the slot. The request's client goes
    /// to the end of the ring.
    pub fn take_next(&mut self, slot: &Slot<'_>) -> Option<WaitingRequest> {
        let (place, ticket) = self.next_for(slot)?;
        let key = *self.ring.get(place)?;
        let waiting = self.leave(ticket);
        if self.clients.contains(key) {
            self.ring.remove(place);
            self.enter_ring(key);
        }
        waiting
    }

    /// Returns the ring place of the client that is next for a slot, and the ticket of its request.
    fn next_for(&self, Slot { endpoint, models, unserved }: &Slot<'_>) -> Option<(usize, Ticket)> {
        if self.retries == 0 && unserved.is_empty() {
            let place = self.ring.first(models)?;
            let queue = &self.clients[*self.ring.get(place)?].queue;
            return Some((place, *queue.get(queue.first(models)?)?));
        }
        let suits = |ticket: &Ticket| {
            let WaitingRequest { request, model, .. } = &self.entries[ticket].waiting;
            !request.tried.contains(endpoint) && !unserved.contains(&(*model, request.api_kind))
        };
        let first = |key: &usize| self.clients[*key].queue.first_wanted(models, suits);
        let place = self.ring.first_wanted(models, |key| first(key).is_some())?;
        let key = self.ring.get(place)?;
        Some((place, *self.clients[*key].queue.get(first(key)?)?))
    }

    /// Puts the clients of an account aside, or back into their turns. This takes time with the waiting clients of the
    /// account, not with the line.
    pub fn set_aside(&mut self, account: AccountNumber, is_aside: bool) {
        let Some(waiting) = self.accounts.get(account) else { return };
        for key in &waiting.clients {
            let client = &mut self.clients[*key];
            if client.is_aside != is_aside {
                client.is_aside = is_aside;
                self.ring.set(client.place, client.models());
            }
        }
    }

    /// Returns how many requests of an account wait.
    pub fn waiting_of(&self, account: AccountNumber) -> usize {
        self.accounts.get(account).map_or(0, |waiting| waiting.len())
    }

    /// Returns the first request of an account that can be served, with what `serve` returns for it: the first client in
    /// the ring that has such a request, and the oldest such request of this client. `None` if there is none. `is_free`
    /// tells whether a slot is free for a model.
    pub fn first_of<R>(
        &self,
        account: AccountNumber,
        is_free: impl Fn(ModelNumber) -> bool,
        serve: impl Fn(&WaitingRequest) -> Option<R>,
    ) -> Option<(Ticket, R)> {
        let waiting = self.accounts.get(account)?;
        let free = waiting.demand.keys().filter(|model| is_free(**model)).collect::<ModelSet>();
        let clients = waiting.clients.iter().map(|key| &self.clients[*key]);
        let mut clients: Vec<&Client> = clients.filter(|client| client.queue.models().meets(&free)).collect();
        clients.sort_unstable_by_key(|client| client.place);
        clients.into_iter().find_map(|client| {
            let mut first = None;
            let _ = client.queue.first_wanted(&free, |ticket| {
                first = serve(&self.entries[ticket].waiting).map(|served| (*ticket, served));
                first.is_some()
            });
            first
        })
    }

    /// Returns the request with this ticket; `None` if it does not wait.
    pub fn get(&self, ticket: Ticket) -> Option<&WaitingRequest> {
        Some(&self.entries.get(&ticket)?.waiting)
    }

    /// Returns a request whose time in this line is over; `None` if there is none.
    pub fn due(&self, now: Moment) -> Option<Ticket> {
        let (until, ticket) = self.by_end.first()?;
        (*until <= now).then_some(*ticket)
    }

    /// Returns when [`Line::due`] next has a request; `None` if no request waits.
    pub fn next_due(&self) -> Option<Moment> {
        self.by_end.first().map(|(until, _)| *until)
    }

    /// Returns the models that requests wait for, each with the number of its requests.
    pub fn demand(&self) -> impl Iterator<Item = (ModelNumber, usize)> {
        self.demand.iter().map(|(model, demand)| (*model, demand.total))
    }

    /// Returns the waiting requests, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &WaitingRequest> {
        self.entries.values().map(|entry| &entry.waiting)
    }

    /// Checks that the indexes agree with the entries, and that the clients of accounts at their limit stand aside.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self, is_at_limit: impl Fn(AccountNumber) -> bool) {
        assert_eq!(self.retries, self.iter().filter(|waiting| waiting.request.is_retry()).count());
        assert_eq!(self.entries.len(), self.by_end.len());
        assert_eq!(self.entries.len(), self.demand.values().map(|demand| demand.total).sum::<usize>());
        assert_eq!(self.entries.len(), self.clients.iter().map(|(_, client)| client.queue.len()).sum::<usize>());
        assert_eq!((self.clients.len(), self.clients.len()), (self.ring.len(), self.keys.len()));
        for demand in self.demand.values() {
            assert_eq!(demand.total, demand.by_client.values().sum::<usize>());
        }
        for (ticket, entry) in &self.entries {
            let client = &self.clients[entry.client];
            assert!(self.by_end.contains(&(entry.until, *ticket)));
            assert_eq!(client.queue.get(entry.place), Some(ticket));
            assert_eq!(self.ring.get(client.place), Some(&entry.client));
            assert_eq!((&client.id, client.account), (&entry.waiting.request.client, entry.waiting.account()));
            assert_eq!(client.is_aside, client.account.is_some_and(&is_at_limit));
            let of_account = client.account.map(|account| self.accounts.get(account).expect("it waits"));
            assert!(of_account.is_none_or(|waiting| waiting.clients.contains(&entry.client)));
        }
        for (account, waiting) in self.accounts.iter() {
            assert_eq!(waiting.len(), self.iter().filter(|waiting| waiting.account() == Some(account)).count());
        }
    }

    fn enter_ring(&mut self, key: usize) {
        let clients = &mut self.clients;
        let models = clients[key].models();
        let place = self.ring.push(key, models, |moved, place| clients[*moved].place = place);
        clients[key].place = place;
    }

    /// Removes one request of a client from the counts.
    fn subtract(&mut self, model: ModelNumber, key: usize) {
        let Some(demand) = self.demand.get_mut(&model) else { return };
        demand.total -= 1;
        if let Some(count) = demand.by_client.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                demand.by_client.remove(&key);
            }
        }
        if demand.total == 0 {
            self.demand.remove(&model);
        }
    }
}

#[cfg(test)]
mod tests;
