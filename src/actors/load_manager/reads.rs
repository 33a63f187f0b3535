//! What LoadManager is asked.

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

/// What LoadManager knows of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Occupancy {
    /// Slots taken.
    pub in_flight: u32,
    /// Whether requests are kept away after failures.
    pub breaker: BreakerView,
}

/// Asks how many slots of each endpoint are in flight, and how its breaker is.
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

/// What the line is like.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub waiting: usize,
    pub max_waiting: usize,
    pub active: usize,
    pub backpressure: Backpressure,
    pub last_hour: Sums,
}

/// Asks what the line is like.
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

/// What waits and runs, and what was granted lately.
#[derive(Debug)]
pub struct LineReport {
    pub by_model: Vec<ModelWait>,
    pub running: Vec<Running>,
    /// Newest first.
    pub grants: Vec<RecentGrant>,
}

/// How endpoints were chosen since the start.
#[derive(Debug)]
pub struct SelectionReport {
    pub mode: Mode,
    pub selections: Selections,
    /// Of the endpoints there are now.
    pub by_endpoint: BTreeMap<String, u64>,
    /// Spent on all of them.
    pub time: Duration,
}

/// Asks how endpoints were chosen.
#[derive(Message)]
#[rtype(result = "SelectionReport")]
pub struct ReadSelections;

impl Handler<ReadSelections> for LoadManager {
    type Result = MessageResult<ReadSelections>;

    fn handle(&mut self, _: ReadSelections, _: &mut Context<Self>) -> Self::Result {
        let by_endpoint = self.dispatcher.selections_by_endpoint();
        MessageResult(SelectionReport {
            mode: self.dispatcher.mode(),
            selections: self.dispatcher.selections().clone(),
            by_endpoint: by_endpoint.map(|(name, count)| (name.to_owned(), count)).collect(),
            time: self.selection_time,
        })
    }
}

/// Asks what waits and runs.
#[derive(Message)]
#[rtype(result = "LineReport")]
pub struct ReadLine;

impl Handler<ReadLine> for LoadManager {
    type Result = MessageResult<ReadLine>;

    fn handle(&mut self, _: ReadLine, _: &mut Context<Self>) -> Self::Result {
        MessageResult(LineReport {
            by_model: self.dispatcher.waiting_by_model(),
            running: self.dispatcher.running(clock::now()),
            grants: self.dispatcher.recent_grants().cloned().collect(),
        })
    }
}
