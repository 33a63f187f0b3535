//! The waiting requests whose clients want to hear of their place in the line.

use std::collections::VecDeque;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::watch;

use super::LoadManager;
use crate::domain::dispatch::{Dispatcher, Queued};
use crate::domain::ids::Ticket;

/// How often a waiting request hears of its place at most.
const UPDATES_INTERVAL: Duration = Duration::from_millis(100);

/// Where a waiting request hears of its place; `None` while it has none.
pub type QueueUpdates = watch::Sender<Option<Queued>>;

/// How many requests are told at once: finding a position takes microseconds, and a handler may take a few hundred.
const TOLD_AT_ONCE: usize = 100;

/// The requests to be told, the longest untold first. They all wait in the line, whose bound is theirs.
#[derive(Default)]
pub struct Watchers {
    watchers: VecDeque<(Ticket, QueueUpdates)>,
    /// How many have not been told since places may have changed.
    untold: usize,
}

impl Watchers {
    /// Tells a request that has begun to wait, and remembers it.
    pub fn add(&mut self, dispatcher: &Dispatcher, ticket: Ticket, updates: QueueUpdates) {
        updates.send_replace(dispatcher.outlook(ticket));
        self.watchers.push_back((ticket, updates));
    }

    /// Learns that places may have changed.
    pub fn note_change(&mut self) {
        self.untold = self.watchers.len();
    }

    /// Tells whether a request is still to be told.
    pub fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Tells the next few requests what has changed, and forgets those that wait no more.
    pub fn tell(&mut self, dispatcher: &Dispatcher) {
        for _ in 0..self.untold.min(TOLD_AT_ONCE) {
            let Some((ticket, updates)) = self.watchers.pop_front() else { break };
            self.untold -= 1;
            let outlook = dispatcher.outlook(ticket);
            let goes_on = outlook.is_some();
            // A retry waits under another ticket, and is told the same way.
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
    /// Tells the watchers soon that places may have changed.
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
