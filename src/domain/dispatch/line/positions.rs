//! The places of requests in the order of service.

use super::{Client, Line};
use crate::domain::dispatch::limits::AccountNumber;
use crate::domain::dispatch::model_set::ModelSet;
use crate::domain::ids::Ticket;
use crate::domain::request::LeaseRequest;

impl Line {
    /// Returns the place, from 1, in the order of service that this request would have if it joined now. Only requests
    /// for `models` are counted. `aside` is the account of the request's key if its clients stand aside. Such a request
    /// waits for the leases of its key, so that only requests of the key are counted.
    pub fn position_of_next(&self, request: &LeaseRequest, models: &ModelSet, aside: Option<AccountNumber>) -> usize {
        let counts = self.counts(models, aside);
        match self.keys.get(&request.client) {
            Some(key) if request.is_retry() => self.position(*key, 1, &counts),
            Some(key) => self.position(*key, counts[*key] + 1, &counts),
            None => 1 + counts.iter().filter(|count| **count > 0).count(),
        }
    }

    /// Returns the place, from 1, in the order of service of the n-th request of the client with this key. Only the
    /// requests in `counts` are counted.
    ///
    /// The request is served in the n-th round. Until then n − 1 requests of the same client are served, up to n of each
    /// client that stands before this client in the ring, and up to n − 1 of each client behind it.
    fn position(&self, key: usize, n: usize, counts: &[usize]) -> usize {
        let place = self.clients[key].place;
        let others = self.clients.iter().filter(|(other, _)| *other != key);
        let before =
            |(other, client): (usize, &Client)| counts[other].min(if client.place < place { n } else { n - 1 });
        n + others.map(before).sum::<usize>()
    }

    /// Returns how many requests for these models each client has, by the client's key: each client of the account
    /// `aside`, or without one each client that does not stand aside.
    fn counts(&self, models: &ModelSet, aside: Option<AccountNumber>) -> Vec<usize> {
        let mut counts = vec![0; self.clients.capacity()];
        let is_counted = |client: &Client| match aside {
            Some(_) => client.account == aside,
            None => !client.is_aside,
        };
        if self.demand.keys().all(|model| models.contains(model.0)) {
            let counted = self.clients.iter().filter(|(_, client)| is_counted(client));
            counted.for_each(|(key, client)| counts[key] = client.queue.len());
            return counts;
        }
        for (_, demand) in self.demand.iter().filter(|(model, _)| models.contains(model.0)) {
            let counted = demand.by_client.iter().filter(|(key, _)| is_counted(&self.clients[**key]));
            counted.for_each(|(key, count)| counts[*key] += count);
        }
        counts
    }

    /// Returns the place, from 1, that a waiting request has in the order of service; `None` if it does not wait. Only
    /// requests for `models` are counted.
    pub fn position_of(&self, ticket: Ticket, models: &ModelSet) -> Option<usize> {
        let key = self.entries.get(&ticket)?.client;
        let aside = self.clients[key].account.filter(|_| self.clients[key].is_aside);
        let is_counted = |other: &&Ticket| models.contains(self.entries[*other].waiting.model.0);
        let own = self.clients[key].queue.iter();
        let before = own.take_while(|other| **other != ticket).filter(is_counted).count();
        Some(self.position(key, before + 1, &self.counts(models, aside)))
    }
}
