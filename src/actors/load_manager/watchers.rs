//! Tells waiting requests their place in the queue, if their clients want to know it.

use std::collections::BTreeMap;
use std::ops::Bound;
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

/// The requests that want updates. All of them wait in the queue, whose bound holds here, too.
#[derive(Default)]
pub struct Watchers {
    watchers: BTreeMap<Ticket, QueueUpdates>,
    /// The request that was told last; the next one after it is told next, and after the last one the first.
    told: Option<Ticket>,
    /// How many requests at most have not been told since places may have changed.
    untold: usize,
}

impl Watchers {
    /// Tells a request that has begun to wait its place, and keeps it for updates.
    pub fn add(&mut self, dispatcher: &Dispatcher, ticket: Ticket, updates: QueueUpdates) {
        updates.send_replace(dispatcher.outlook(ticket));
        self.watchers.insert(ticket, updates);
    }

    /// Tells a request that it no longer has a place, and forgets it. Must be called for every request that stops waiting.
    pub fn remove(&mut self, ticket: Ticket) {
        if let Some(updates) = self.watchers.remove(&ticket) {
            updates.send_replace(None);
        }
    }

    /// Notes that places may have changed.
    pub fn note_change(&mut self) {
        self.untold = self.watchers.len();
    }

    /// Tells whether any request must still be told.
    pub fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Tells up to [`TOLD_AT_ONCE`] requests their place if it has changed.
    pub fn tell(&mut self, dispatcher: &Dispatcher) {
        let told = self.told.map_or(Bound::Unbounded, Bound::Excluded);
        let after = self.watchers.range((told, Bound::Unbounded));
        let up_to = self.told.map(|told| self.watchers.range(..=told)).into_iter().flatten();
        let count = self.untold.min(TOLD_AT_ONCE);
        for (ticket, updates) in after.chain(up_to).take(count) {
            let outlook = dispatcher.outlook(*ticket);
            updates.send_if_modified(|known| std::mem::replace(known, outlook) != outlook);
            self.told = Some(*ticket);
        }
        self.untold -= count;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dispatch::QueueRules;
    use crate::domain::dispatch::admission::Admission;
    use crate::domain::dispatch::choose::Balancing;

    #[test]
    fn every_request_is_told_in_its_turn_however_many_there_are() {
        let admission = Admission { delay_threshold: 1.0, reject_threshold: 1.0, max_delay: Duration::ZERO };
        let rules = QueueRules { max_waiting: 0, admission, warm_up: Duration::ZERO };
        // A dispatcher in which nothing waits has no place to tell.
        let dispatcher = Dispatcher::new(rules, Balancing::default());
        let mut watchers = Watchers::default();
        let senders: Vec<QueueUpdates> = (0..250).map(|_| QueueUpdates::default()).collect();
        for (number, sender) in (0..).zip(&senders) {
            watchers.add(&dispatcher, Ticket(number), sender.clone());
        }
        for _ in 0..2 {
            let place = Queued { position: 1, estimated_wait: None };
            senders.iter().for_each(|sender| sender.send_modify(|known| *known = Some(place)));
            watchers.note_change();
            for left in [150, 50, 0] {
                assert!(watchers.has_untold());
                watchers.tell(&dispatcher);
                assert_eq!(senders.iter().filter(|sender| sender.borrow().is_some()).count(), left);
            }
            assert!(!watchers.has_untold());
        }
    }
}
