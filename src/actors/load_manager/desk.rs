//! The only door through which HTTP gets leases.

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

/// Where HTTP asks for leases.
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

    /// Returns until when a request may wait that arrives now.
    pub fn deadline(&self) -> Moment {
        clock::now().after(self.timeout)
    }

    /// Waits for a lease, and tells `updates` how the wait goes. Dropping the future gives back the place in the line, or the
    /// lease.
    ///
    /// # Errors
    /// Why there is no lease.
    pub async fn acquire(&self, ask: Ask, deadline: Moment, updates: Option<QueueUpdates>) -> LeaseAnswer {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        let mut place = Place { manager: &self.manager, ticket: Some(ticket) };
        let answer = self.manager.send(AcquireLease { ticket, ask, deadline, updates }).await;
        place.ticket = None;
        answer.unwrap_or(Err(Refusal::Draining))
    }
}

/// Gives up a place in the line when it is dropped before the answer came.
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
