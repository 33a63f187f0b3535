//! Endpoints that have failed requests: which come last, which are skipped, and when those are tried again.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};

use super::breaker::Breaker;
use crate::domain::ids::{EndpointId, LeaseId};
use crate::domain::request::Outcome;
use crate::domain::time::Moment;

/// What the failures of one endpoint have led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// Whether the endpoint gets requests.
    pub breaker: Breaker,
    /// The endpoint has failed a request, and has neither served one nor answered a probe since.
    pub is_suspect: bool,
}

/// The breakers and suspicions of all endpoints. An endpoint without failures takes no room.
#[derive(Debug)]
pub struct Trials {
    trials: HashMap<EndpointId, Trial>,
    /// Online endpoints whose breaker is not closed.
    tripped: BTreeSet<EndpointId>,
}

impl Trials {
    /// Creates the trials of a fleet without failures.
    pub fn new() -> Self {
        Self { trials: HashMap::new(), tripped: BTreeSet::new() }
    }

    /// Returns what the failures of an endpoint have led to.
    pub fn of(&self, id: EndpointId) -> Trial {
        self.trials.get(&id).copied().unwrap_or_default()
    }

    /// Forgets the failures of an endpoint.
    pub fn forget(&mut self, id: EndpointId) {
        self.trials.remove(&id);
        self.tripped.remove(&id);
    }

    /// Clears the suspicion of an endpoint.
    pub fn clear_suspicion(&mut self, id: EndpointId) {
        let trial = self.of(id);
        self.set(id, Trial { is_suspect: false, ..trial });
    }

    /// Keeps account of whether a tripped endpoint is online.
    pub fn set_online(&mut self, id: EndpointId, is_online: bool) {
        if is_online && !self.of(id).breaker.is_closed() {
            self.tripped.insert(id);
        } else {
            self.tripped.remove(&id);
        }
    }

    /// Learns of a grant on an endpoint.
    pub fn granted(&mut self, id: EndpointId, lease: LeaseId) {
        if let Some(trial) = self.trials.get_mut(&id) {
            trial.breaker = trial.breaker.granted(lease);
        }
    }

    /// Learns how a lease on an endpoint ended. Returns whether its breaker has opened or closed.
    pub fn ended(&mut self, now: Moment, id: EndpointId, lease: LeaseId, outcome: &Outcome) -> bool {
        let before = self.of(id);
        let is_suspect = match outcome {
            Outcome::Succeeded { .. } => false,
            Outcome::Failed(failure) => before.is_suspect || failure.ranks_last(),
            Outcome::Abandoned => before.is_suspect,
        };
        let after = Trial { breaker: before.breaker.ended(now, lease, outcome), is_suspect };
        if before != after {
            self.set(id, after);
        }
        before.breaker.is_closed() != after.breaker.is_closed()
    }

    /// Returns the online endpoints whose breaker is not closed.
    pub fn tripped(&self) -> Vec<EndpointId> {
        self.tripped.iter().copied().collect()
    }

    /// Tells whether an endpoint is online and its breaker is not closed.
    pub fn is_tripped(&self, id: EndpointId) -> bool {
        self.tripped.contains(&id)
    }

    /// Returns when the next breaker is to be tried.
    pub fn next_trial(&self) -> Option<Moment> {
        let breakers = self.tripped.iter().map(|id| self.of(*id).breaker);
        let ends = breakers.filter_map(|breaker| match breaker {
            Breaker::Open { until, .. } => Some(until),
            Breaker::Closed { .. } | Breaker::Trial { .. } => None,
        });
        ends.min()
    }

    /// Begins the trial of an endpoint whose time has come.
    pub fn begin(&mut self, now: Moment, id: EndpointId) {
        if let Some(trial) = self.trials.get_mut(&id) {
            trial.breaker = trial.breaker.waited(now);
        }
    }

    fn set(&mut self, id: EndpointId, trial: Trial) {
        if trial == Trial::default() {
            self.trials.remove(&id);
        } else {
            self.trials.insert(id, trial);
        }
    }
}
