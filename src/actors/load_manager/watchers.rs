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
pub struct Watchers {
    watchers: VecDeque<(Ticket, QueueUpdates)>,
    /// How many of them have not been told since something has changed.
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

    pub fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Tells the next few what has changed and forgets who waits no more.
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
