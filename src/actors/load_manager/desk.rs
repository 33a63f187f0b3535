//! The desk, where HTTP gets its leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;

use super::acquire::{AcquireLease, Ask, CancelWait, LeaseAnswer};
use super::{LoadManager, QueueUpdates};
use crate::clock;
use crate::domain::ids::Ticket;
use crate::domain::request::Refusal;
use crate::domain::time::Moment;

/// Takes requests for leases to LoadManager. Clones are cheap and share their tickets.
#[derive(Clone)]
pub struct LeaseDesk {
    manager: Addr<LoadManager>,
    timeout: Duration,
    next_ticket: Arc<AtomicU64>,
}

impl LeaseDesk {
    /// Creates a desk whose requests wait at most `timeout`.
    pub fn new(manager: Addr<LoadManager>, timeout: Duration) -> Self {
        Self { manager, timeout, next_ticket: Arc::default() }
    }

    /// Returns the moment until which a request that arrives now may wait.
    pub fn deadline(&self) -> Moment {
        clock::now().after(self.timeout)
    }

    /// Waits for a lease, and reports the wait to `updates`. Dropping the future frees the place in the queue, or the lease.
    ///
    /// # Errors
    /// The refusal, if there is no lease.
    pub async fn acquire(&self, ask: Ask, deadline: Moment, updates: Option<QueueUpdates>) -> LeaseAnswer {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        let mut place = Place { manager: &self.manager, ticket: Some(ticket) };
        let answer = self.manager.send(AcquireLease { ticket, ask, deadline, updates }).await;
        place.ticket = None;
        answer.unwrap_or(Err(Refusal::Draining))
    }
}

/// Gives up the place in the queue if it is dropped before the answer has come.
struct Place<'a> {
    manager: &'a Addr<LoadManager>,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.manager.do_send(CancelWait(ticket));
        }
    }
}
