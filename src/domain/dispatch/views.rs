//! What the dispatcher shows to the dashboard and the API. It shows nothing about clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::admission::Backpressure;
use super::choose::Mode;
use super::decision::GrantReason;
use super::models::ModelNumber;
use super::{Breaker, Dispatcher, Held, Selections};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::ApiKind;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// How many of the latest grants are kept.
const GRANTS_MAX: usize = 50;

/// The requests that wait for one model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelWait {
    /// The model.
    pub model: ModelId,
    /// How many requests wait for the model.
    pub waiting: usize,
    /// How long one more request would wait if it were served after all waiting ones, in whole seconds; `None` while no
    /// request for the model was served.
    pub estimated_wait: Option<Duration>,
}

/// A request that holds a lease.
#[derive(Clone, Debug)]
pub struct Running {
    /// The server that the request went to.
    pub target: Arc<Target>,
    /// The model that the client asked for.
    pub model: ModelId,
    /// The API of the request.
    pub api_kind: ApiKind,
    /// The time since the grant.
    pub elapsed: Duration,
}

/// One of the latest grants.
#[derive(Clone, Debug)]
pub struct RecentGrant {
    /// The server that the request went to.
    pub target: Arc<Target>,
    /// The model that the client asked for.
    pub model: ModelId,
    /// Why this endpoint was chosen.
    pub reason: GrantReason,
    /// When the lease was granted.
    pub granted: Moment,
    /// The time from the request's arrival to the grant; zero for a request that did not wait.
    pub waited: Duration,
}

/// The latest grants, [`GRANTS_MAX`] at most.
#[derive(Debug, Default)]
pub struct RecentGrants(VecDeque<RecentGrant>);

impl RecentGrants {
    /// Adds a grant. If there are then more than [`GRANTS_MAX`], the oldest is dropped.
    pub fn add(&mut self, grant: RecentGrant) {
        if self.0.len() == GRANTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(grant);
    }

    /// Returns the grants, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &RecentGrant> {
        self.0.iter().rev()
    }
}

impl Dispatcher {
    /// Returns how many requests wait, in all stages.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns how many leases are held.
    pub fn active(&self) -> usize {
        self.leases.len()
    }

    /// Tells what happens to a new request that finds no free slot.
    pub fn backpressure(&self) -> Backpressure {
        self.rules.admission.backpressure(self.waiting(), self.rules.max_waiting)
    }

    /// Returns how many requests may wait.
    pub fn max_waiting(&self) -> usize {
        self.rules.max_waiting
    }

    /// Returns how many slots of each endpoint are taken.
    pub fn in_flight(&self) -> impl Iterator<Item = (EndpointId, u32)> {
        self.fleet.in_flight()
    }

    /// Returns the name of an endpoint; `None` if the endpoint is gone.
    pub fn endpoint_name(&self, id: EndpointId) -> Option<&str> {
        self.fleet.name(id)
    }

    /// Returns an endpoint's breaker.
    pub fn breaker(&self, id: EndpointId) -> Breaker {
        self.fleet.breaker(id)
    }

    /// Returns how many requests wait for each model, the most first.
    pub fn waiting_by_model(&self) -> Vec<ModelWait> {
        let demand = self.queue.demand();
        let wait = |(model, waiting): (&ModelNumber, &usize)| {
            let (slots, models) = self.fleet.competition(*model);
            let competing = demand.iter().filter(|(other, _)| models.contains(other.0));
            let position = competing.map(|(_, waiting)| waiting).sum::<usize>() + 1;
            let known = self.fleet.models();
            let estimated_wait = known.service_time(*model).wait(position, slots);
            ModelWait { model: known.name(*model).clone(), waiting: *waiting, estimated_wait }
        };
        let mut waits: Vec<ModelWait> = demand.iter().map(wait).collect();
        waits.sort_unstable_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.model.cmp(&b.model)));
        waits
    }

    /// Returns the requests that hold a lease, the longest-running first.
    pub fn running(&self, now: Moment) -> Vec<Running> {
        let running = |held: &Held| Running {
            target: held.target.clone(),
            model: held.request.model.clone(),
            api_kind: held.request.api_kind,
            elapsed: now.since(held.granted),
        };
        let mut running: Vec<Running> = self.leases.values().map(running).collect();
        running.sort_by_key(|running| std::cmp::Reverse(running.elapsed));
        running
    }

    /// Returns the mode by which endpoints are chosen.
    pub fn mode(&self) -> Mode {
        self.fleet.mode()
    }

    /// Returns how often a choice was made for each reason.
    pub fn selections(&self) -> &Selections {
        &self.selections
    }

    /// Returns how often each endpoint was chosen, by its name.
    pub fn selections_by_endpoint(&self) -> impl Iterator<Item = (&str, u64)> {
        self.fleet.selections()
    }

    /// Returns the latest grants, newest first.
    pub fn recent_grants(&self) -> impl Iterator<Item = &RecentGrant> {
        self.recent_grants.iter()
    }
}
