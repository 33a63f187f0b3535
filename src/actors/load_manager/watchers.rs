//! Those who wait and want to hear how their wait goes.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::domain::dispatch::{Dispatcher, Queued};
use crate::domain::ids::Ticket;

/// Where a waiting request hears of its place; `None` while it has none.
pub type QueueUpdates = watch::Sender<Option<Queued>>;

/// How many are told at once: a position takes microseconds, of which LoadManager may spend no more than a few hundred.
const TOLD_AT_ONCE: usize = 100;

/// Those who wait and want to hear of it, the longest untold first.
#[derive(Default)]
pub struct Watchers(VecDeque<(Ticket, QueueUpdates)>);

impl Watchers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells a request that has begun to wait, and remembers it.
    pub fn add(&mut self, dispatcher: &Dispatcher, ticket: Ticket, updates: QueueUpdates) {
        updates.send_replace(dispatcher.outlook(ticket));
        self.0.push_back((ticket, updates));
    }

    /// Tells the next few what has changed and forgets who waits no more. Returns whether there are more to tell.
    pub fn tell(&mut self, dispatcher: &Dispatcher) -> bool {
        let count = self.0.len().min(TOLD_AT_ONCE);
        let told: Vec<_> = self.0.drain(..count).collect();
        let more = !self.0.is_empty();
        for (ticket, updates) in told {
            let outlook = dispatcher.outlook(ticket);
            updates.send_if_modified(|known| std::mem::replace(known, outlook) != outlook);
            if outlook.is_some() {
                self.0.push_back((ticket, updates));
            }
        }
        more
    }
}
