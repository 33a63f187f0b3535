//! Tells waiting requests their place in the queue, if their clients want to know it.

use std::collections::VecDeque;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::watch;

use super::LoadManager;
use crate::domain::dispatch::{Dispatcher, Queued};
use crate::domain::ids::Ticket;

/// The shortest time between two updates to a waiting request.
const UPDATES_INTERVAL: Duration = Duration::from_millis(100);

/// Tells a waiting request its place in the queue; `None` while the request has no place.
pub type QueueUpdates = watch::Sender<Option<Queued>>;

/// How many requests are told in one go. Finding a place takes microseconds, and a handler may take a few hundred.
const TOLD_AT_ONCE: usize = 100;

/// The requests that want updates, the one with the oldest update first. All of them wait in the queue, whose bound holds
/// here, too.
#[derive(Default)]
pub struct Watchers {
    watchers: VecDeque<(Ticket, QueueUpdates)>,
    /// How many of them have not been told since places may have changed.
    untold: usize,
}

impl Watchers {
    /// Tells a request that has begun to wait its place, and keeps it for updates.
    pub fn add(&mut self, dispatcher: &Dispatcher, ticket: Ticket, updates: QueueUpdates) {
        updates.send_replace(dispatcher.outlook(ticket));
        self.watchers.push_back((ticket, updates));
    }

    /// Notes that places may have changed.
    pub fn note_change(&mut self) {
        self.untold = self.watchers.len();
    }

    /// Tells whether any request must still be told.
    pub fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Tells up to [`TOLD_AT_ONCE`] requests their place if it has changed, and drops those that no longer wait.
    pub fn tell(&mut self, dispatcher: &Dispatcher) {
        for _ in 0..self.untold.min(TOLD_AT_ONCE) {
            let Some((ticket, updates)) = self.watchers.pop_front() else { break };
            self.untold -= 1;
            let outlook = dispatcher.outlook(ticket);
            let goes_on = outlook.is_some();
            // A retry of the same request may wait under another ticket; its place must not be overwritten with `None`.
            if goes_on || !self.watchers.iter().any(|(_, other)| other.same_channel(&updates)) {
                updates.send_if_modified(|known| std::mem::replace(known, outlook) != outlook);
            }
            if goes_on {
                self.watchers.push_back((ticket, updates));
            }
        }
    }
}

impl LoadManager {
    /// Makes the watchers hear soon that places may have changed.
    pub(super) fn note_updates(&mut self, ctx: &mut Context<Self>) {
        self.watchers.note_change();
        self.arm_updates(ctx);
    }

    fn arm_updates(&mut self, ctx: &mut Context<Self>) {
        if !self.updates_due && self.watchers.has_untold() {
            self.updates_due = true;
            ctx.notify_later(UpdatesDue, UPDATES_INTERVAL);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct UpdatesDue;

impl Handler<UpdatesDue> for LoadManager {
    type Result = ();

    fn handle(&mut self, _: UpdatesDue, ctx: &mut Context<Self>) {
        self.updates_due = false;
        self.watchers.tell(&self.dispatcher);
        self.arm_updates(ctx);
    }
}
