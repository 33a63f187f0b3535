//! The questions that LoadManager answers, none of which changes anything.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use actix::{Context, Handler, Message, MessageResult};

use super::LoadManager;
use crate::clock;
use crate::domain::dispatch::admission::Backpressure;
use crate::domain::dispatch::choose::Mode;
use crate::domain::dispatch::{BreakerView, ModelWait, RecentGrant, Running, Selections};
use crate::domain::ids::EndpointId;
use crate::domain::last_hour::Sums;

/// What LoadManager knows of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Occupancy {
    /// The number of slots that are taken.
    pub in_flight: u32,
    /// Whether the endpoint is skipped after failures.
    pub breaker: BreakerView,
}

/// Asks how many slots of each endpoint are taken, and for the state of its breaker.
#[derive(Message)]
#[rtype(result = "HashMap<EndpointId, Occupancy>")]
pub struct ReadOccupancy;

impl Handler<ReadOccupancy> for LoadManager {
    type Result = MessageResult<ReadOccupancy>;

    fn handle(&mut self, _: ReadOccupancy, _: &mut Context<Self>) -> Self::Result {
        let (now, wall) = (clock::now(), clock::wall());
        let breaker = |id| self.dispatcher.breaker(id).view(now, wall);
        let in_flight = self.dispatcher.in_flight();
        MessageResult(in_flight.map(|(id, in_flight)| (id, Occupancy { in_flight, breaker: breaker(id) })).collect())
    }
}

/// How full the queue is, and the sums of the last hour.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The number of requests that wait.
    pub waiting: usize,
    /// The most requests that may wait.
    pub max_waiting: usize,
    /// The number of leases that are held.
    pub active: usize,
    /// How near the queue is to refusing requests.
    pub backpressure: Backpressure,
    /// The sums of the last hour.
    pub last_hour: Sums,
}

/// Asks how full the queue is.
#[derive(Message)]
#[rtype(result = "Load")]
pub struct ReadLoad;

impl Handler<ReadLoad> for LoadManager {
    type Result = MessageResult<ReadLoad>;

    fn handle(&mut self, _: ReadLoad, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Load {
            waiting: self.dispatcher.waiting(),
            max_waiting: self.dispatcher.max_waiting(),
            active: self.dispatcher.active(),
            backpressure: self.dispatcher.backpressure(),
            last_hour: self.last_hour.read(clock::now()),
        })
    }
}

/// The waiting requests, the running requests and the latest grants.
#[derive(Debug)]
pub struct QueueView {
    /// The waiting requests, by model.
    pub by_model: Vec<ModelWait>,
    /// The requests that hold a lease.
    pub running: Vec<Running>,
    /// The latest grants, newest first.
    pub grants: Vec<RecentGrant>,
}

/// How endpoints have been chosen since the start.
#[derive(Debug)]
pub struct SelectionsView {
    /// The configured way to choose.
    pub mode: Mode,
    /// The number of choices, in all and by reason.
    pub selections: Selections,
    /// The number of choices of each existing endpoint, by its name.
    pub by_endpoint: BTreeMap<String, u64>,
    /// The total time spent on all choices.
    pub time: Duration,
}

/// Asks how endpoints have been chosen.
#[derive(Message)]
#[rtype(result = "SelectionsView")]
pub struct ReadSelections;

impl Handler<ReadSelections> for LoadManager {
    type Result = MessageResult<ReadSelections>;

    fn handle(&mut self, _: ReadSelections, _: &mut Context<Self>) -> Self::Result {
        let by_endpoint = self.dispatcher.selections_by_endpoint();
        MessageResult(SelectionsView {
            mode: self.dispatcher.mode(),
            selections: self.dispatcher.selections().clone(),
            by_endpoint: by_endpoint.map(|(name, count)| (name.to_owned(), count)).collect(),
            time: self.selection_time,
        })
    }
}

/// Asks for the waiting requests, the running requests and the latest grants.
#[derive(Message)]
#[rtype(result = "QueueView")]
pub struct ReadQueue;

impl Handler<ReadQueue> for LoadManager {
    type Result = MessageResult<ReadQueue>;

    fn handle(&mut self, _: ReadQueue, _: &mut Context<Self>) -> Self::Result {
        MessageResult(QueueView {
            by_model: self.dispatcher.waiting_by_model(),
            running: self.dispatcher.running(clock::now()),
            grants: self.dispatcher.recent_grants().cloned().collect(),
        })
    }
}
