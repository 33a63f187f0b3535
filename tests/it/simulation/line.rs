//! The line as plain lists.

use leaseway::domain::ids::{ClientId, Ticket};
use leaseway::domain::request::LeaseRequest;
use leaseway::domain::time::Moment;

/// A request that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub ticket: Ticket,
    pub request: LeaseRequest,
    pub deadline: Moment,
    pub arrived: Moment,
    /// When its delay, or its wait for an endpoint that is loading, ends, if it is in one.
    pub until: Moment,
}

/// The requests that wait, and the turns of their clients.
#[derive(Default)]
pub struct Line {
    /// In the order of joining.
    pub waiters: Vec<Waiter>,
    /// The clients that wait, the next to be served first.
    pub ring: Vec<ClientId>,
}

impl Line {
    pub fn join(&mut self, waiter: Waiter) {
        let client = &waiter.request.client;
        if !self.ring.contains(client) {
            self.ring.push(client.clone());
        }
        let first = self.waiters.iter().position(|other| other.request.client == *client);
        match first {
            Some(first) if waiter.request.is_retry() => self.waiters.insert(first, waiter),
            _ => self.waiters.push(waiter),
        }
    }

    pub fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        let place = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        let waiter = self.waiters.remove(place);
        if !self.waiters.iter().any(|other| other.request.client == waiter.request.client) {
            self.ring.retain(|client| *client != waiter.request.client);
        }
        Some(waiter)
    }

    pub fn next_for(&self, suits: impl Fn(&LeaseRequest) -> bool) -> Option<Ticket> {
        self.ring.iter().find_map(|client| {
            let mut own = self.waiters.iter().filter(|waiter| waiter.request.client == *client);
            own.find(|waiter| suits(&waiter.request)).map(|waiter| waiter.ticket)
        })
    }

    pub fn pass_turn(&mut self, client: &ClientId) {
        if let Some(place) = self.ring.iter().position(|other| other == client) {
            let served = self.ring.remove(place);
            self.ring.push(served);
        }
    }
}
