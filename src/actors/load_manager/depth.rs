//! Tells viewers how many requests wait, how many leases are held, and the averages of the last hour.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::LoadManager;
use crate::actors::event_hub::Publish;
use crate::clock;
use crate::domain::event::{Event, QueueDepth};

/// The shortest time between two events after changes.
const DEPTH_INTERVAL: Duration = Duration::from_millis(100);

/// The longest time between two events. The averages of the last hour change even if nothing happens.
const MEANS_INTERVAL: Duration = Duration::from_secs(60);

impl LoadManager {
    /// Makes LoadManager tell viewers every [`MEANS_INTERVAL`].
    pub(super) fn tell_depth_regularly(&self, ctx: &mut Context<Self>) {
        ctx.run_interval(MEANS_INTERVAL, |_, ctx| ctx.notify(DepthDue));
    }

    /// Makes viewers hear soon if anything that they see has changed.
    pub(super) fn note_depth(&mut self, ctx: &mut Context<Self>) {
        let depth = (self.dispatcher.waiting(), self.dispatcher.active());
        let slots_moved = std::mem::take(&mut self.slots_moved);
        if depth == self.depth && !slots_moved {
            return;
        }
        self.depth = depth;
        if self.depth_told {
            self.depth_told = false;
            ctx.notify_later(DepthDue, DEPTH_INTERVAL);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct DepthDue;

impl Handler<DepthDue> for LoadManager {
    type Result = ();

    fn handle(&mut self, _: DepthDue, _: &mut Context<Self>) {
        self.depth_told = true;
        let (waiting, active) = self.depth;
        let last_hour = self.last_hour.read(clock::now());
        let (avg_wait_ms, average_response_ms) = (last_hour.avg_wait_ms(), last_hour.average_response_ms());
        let in_flight = self.dispatcher.in_flight().filter(|(_, slots)| *slots > 0).collect();
        let depth = QueueDepth { waiting, active, avg_wait_ms, average_response_ms, in_flight };
        self.events.do_send(Publish(Event::QueueDepth(depth)));
    }
}
