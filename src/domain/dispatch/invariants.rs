//! The invariants of the dispatcher, checked after every step of the simulation and, in debug builds, after every call.

use foldhash::{HashMap, HashMapExt};

use super::Dispatcher;
use crate::domain::ids::EndpointId;

impl Dispatcher {
    /// Checks the invariants listed at the top of [`dispatch`](super).
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_invariants(&self) {
        self.fleet.assert_consistent();
        self.queue.assert_consistent(|account| self.limits.is_at_limit(account));
        let waiting = self.queue.iter().filter_map(|waiting| Some((waiting.charge?, false)));
        let held = self.leases.values().filter_map(|held| Some((held.charge?, true)));
        self.limits.assert_consistent(waiting.chain(held));
        assert!(self.below_limit.is_empty(), "keys below their limit take part");
        let bounded = self.waiting() - self.queue.retries();
        assert!(bounded <= self.rules.max_waiting, "the line is bounded but for retries");
        assert!(!self.draining || self.waiting() == 0, "nobody waits while draining");
        assert!(self.verdicts.is_empty(), "verdicts are carried out");
        assert!(self.fleet.trial_leases().all(|lease| self.leases.contains_key(&lease)), "a trial ends with its lease");
        assert!(self.queue.misplaced(|model| self.fleet.prospect(model)).is_empty(), "nobody waits in vain");
        for waiting in self.queue.iter() {
            let request = &waiting.request;
            let model = waiting.model;
            let is_at_limit = waiting.account().is_some_and(|account| self.limits.is_at_limit(account));
            let is_free = self.fleet.choose(model, request).is_some();
            assert!(
                !is_free || is_at_limit,
                "nobody waits while a capable slot is free, unless its key is at its limit"
            );
            assert!(!request.is_retry() || self.fleet.has_untried(model, request), "no retry waits in vain");
            assert!(self.fleet.unserved(model, request).is_none(), "nobody waits for an API that no endpoint serves");
        }
        let users = self.fleet.model_users() + self.waiting() + self.active();
        assert_eq!(
            self.fleet.models().users(),
            users,
            "models are numbered for endpoints, requests that wait, and leases"
        );
        let mut held: HashMap<EndpointId, u32> = HashMap::new();
        for lease in self.leases.values() {
            *held.entry(lease.target.id).or_default() += 1;
        }
        for (id, in_flight) in self.fleet.in_flight() {
            assert_eq!(in_flight, held.get(&id).copied().unwrap_or(0), "slots in flight are the leases held");
        }
    }

    /// Checks the invariants in debug builds.
    pub(super) fn debug_assert_invariants(&self) {
        if cfg!(debug_assertions) {
            self.assert_invariants();
        }
    }
}
