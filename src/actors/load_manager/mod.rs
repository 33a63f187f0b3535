//! LoadManager: grants leases and keeps the requests that wait for one.
//!
//! The [`Dispatcher`] makes the decisions. This actor reads the clock, keeps the callers that wait for an answer, and arms one
//! timer. Every handler answers within microseconds and awaits nothing.

mod acquire;
mod depth;
mod desk;
mod draining;
mod limits;
mod reads;
mod troubles;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};

use self::acquire::WaitingCaller;
pub use self::acquire::{AcquireLease, Ask, LeaseAnswer};
pub use self::desk::LeaseDesk;
pub use self::draining::Drain;
pub use self::reads::{Load, Occupancy, QueueView, ReadLoad, ReadOccupancy, ReadQueue, ReadSelections, SelectionsView};
use self::troubles::Troubles;
pub use self::watchers::QueueUpdates;
use self::watchers::Watchers;
use super::event_hub::Publish;
use super::facts::{EndpointBlamed, EndpointsChanged, LeasesEnded, LoadReported, RequestUnserved};
use super::promise::Caller;
use crate::clock::{self, Stopwatch};
use crate::domain::dispatch::choose::Balancing;
use crate::domain::dispatch::{Decision, Dispatcher, Grant, QueueRules};
use crate::domain::ids::Ticket;
use crate::domain::last_hour::LastHour;
use crate::domain::request::EndedLease;
use crate::domain::time::Moment;
use crate::lease::{EndLease, Lease, LeaseReports};

/// Owns the dispatcher and the callers that wait for its answers.
pub struct LoadManager {
    dispatcher: Dispatcher,
    /// The callers of the requests in the dispatcher's queue, whose bound holds here, too.
    waiting: HashMap<Ticket, WaitingCaller>,
    watchers: Watchers,
    /// True while an update of the watchers is scheduled.
    updates_due: bool,
    /// The caller that waits until no lease is held; `None` while Leaseway is not stopping.
    draining: Option<Caller<usize>>,
    observers: Vec<Recipient<LeasesEnded>>,
    /// The ended leases of which observers have not been told. They are told as soon as the messages that wait are handled, since
    /// each message to another thread may cost a wake-up. There are at most as many as there were leases and waiting messages.
    untold: Vec<Arc<EndedLease>>,
    /// Hears of endpoints that are to blame for failures; set when Leaseway starts.
    blames: Option<Recipient<EndpointBlamed>>,
    unserved: Recipient<RequestUnserved>,
    events: Recipient<Publish>,
    /// The recipients of the leases' reports; set when the actor starts.
    report: Option<Arc<LeaseReports>>,
    timer: Option<(Moment, SpawnHandle)>,
    /// The total time spent on granting leases.
    selection_time: Duration,
    /// How many requests wait and how many leases are held, as viewers have been told or will soon be.
    depth: (usize, usize),
    /// True if a lease was granted or has ended since `depth` was noted, so that the used slots of endpoints may have changed.
    slots_moved: bool,
    /// True if viewers have been told `depth`.
    depth_told: bool,
    last_hour: LastHour,
    troubles: Troubles,
}

impl LoadManager {
    /// Creates a manager with these rules for its queue and its choices.
    pub fn new(
        rules: QueueRules,
        balancing: Balancing,
        events: Recipient<Publish>,
        unserved: Recipient<RequestUnserved>,
    ) -> Self {
        Self {
            dispatcher: Dispatcher::new(rules, balancing),
            waiting: HashMap::new(),
            watchers: Watchers::default(),
            updates_due: false,
            draining: None,
            observers: Vec::new(),
            untold: Vec::new(),
            blames: None,
            unserved,
            events,
            report: None,
            timer: None,
            selection_time: Duration::ZERO,
            depth: (0, 0),
            slots_moved: false,
            depth_told: true,
            last_hour: LastHour::default(),
            troubles: Troubles::default(),
        }
    }

    fn lease(&mut self, grant: Grant) -> Lease {
        self.last_hour.granted(clock::now(), grant.waited);
        self.slots_moved = true;
        let report = self.report.clone().expect("set when the actor started, before its first message");
        Lease::new(grant, report)
    }

    /// Carries out decisions about waiting requests, then arms the timer for the next decision.
    fn carry_out(&mut self, decisions: Vec<Decision>, ctx: &mut Context<Self>) {
        for decision in decisions {
            match decision {
                Decision::Grant(ticket, grant) => {
                    // If the caller has gone, the lease is dropped and reports its end.
                    let lease = self.lease(grant);
                    if let Some(waiter) = self.end_wait(ticket) {
                        waiter.caller.answer(Ok(lease));
                    }
                }
                Decision::Refuse(ticket, refusal) => {
                    if let Some(WaitingCaller { caller, request, since }) = self.end_wait(ticket) {
                        self.tell_unserved(request, Some(refusal.clone()), since);
                        caller.answer(Err(refusal));
                    }
                }
            }
        }
        for blamed in self.dispatcher.take_blamed() {
            self.tell_observers();
            if let Some(blames) = &self.blames {
                blames.do_send(EndpointBlamed(blamed));
            }
        }
        if self.waiting.is_empty() {
            // Frees the memory that the longest queue took.
            self.waiting = HashMap::new();
        }
        self.tell_breakers();
        self.arm_timer(ctx);
        self.note_depth(ctx);
        self.note_updates(ctx);
        if self.dispatcher.active() == 0
            && let Some(caller) = self.draining.take()
        {
            self.tell_observers();
            caller.answer(0);
        }
    }

    /// Takes out the caller of a request that no longer waits, and ends the updates of its client.
    fn end_wait(&mut self, ticket: Ticket) -> Option<WaitingCaller> {
        self.watchers.remove(ticket);
        self.waiting.remove(&ticket)
    }

    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let due = self.dispatcher.next_due();
        if self.timer.map(|(armed, _)| armed) == due {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        self.timer = due.map(|due| (due, ctx.notify_later(ExpiryDue, due.since(clock::now()))));
    }

    fn note_ended(&mut self, ended: EndedLease, ctx: &mut Context<Self>) {
        self.last_hour.ended(clock::now(), &ended.outcome, ended.duration);
        self.slots_moved = true;
        log::debug!("lease ended {ended}");
        self.note_failure(&ended);
        if self.untold.is_empty() {
            ctx.notify(TellObservers);
        }
        self.untold.push(Arc::new(ended));
    }

    fn tell_observers(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let ended = LeasesEnded(std::mem::take(&mut self.untold));
        self.observers.iter().for_each(|observer| observer.do_send(ended.clone()));
    }
}

impl Actor for LoadManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (ends, first_bytes) = (ctx.address().recipient(), ctx.address().recipient());
        self.report = Some(Arc::new(LeaseReports { ends, first_bytes }));
        self.tell_troubles_regularly(ctx);
        self.tell_depth_regularly(ctx);
        self.follow_days(ctx);
    }
}

impl Handler<EndLease> for LoadManager {
    type Result = ();

    fn handle(&mut self, EndLease(end): EndLease, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        let stopwatch = Stopwatch::start();
        if let Some(ended) = self.dispatcher.end(clock::now(), end, &mut decisions) {
            if !decisions.is_empty() {
                self.selection_time += stopwatch.elapsed();
            }
            self.note_ended(ended, ctx);
        }
        self.carry_out(decisions, ctx);
    }
}

impl Handler<EndpointsChanged> for LoadManager {
    type Result = ();

    fn handle(&mut self, changed: EndpointsChanged, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        self.dispatcher.change_endpoints(clock::now(), changed.updated, changed.removed, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

impl Handler<LoadReported> for LoadManager {
    type Result = ();

    fn handle(&mut self, message: LoadReported, _: &mut Context<Self>) {
        let LoadReported { endpoint, report, received } = message;
        self.dispatcher.report_load(endpoint, report, received);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ExpiryDue;

impl Handler<ExpiryDue> for LoadManager {
    type Result = ();

    fn handle(&mut self, _: ExpiryDue, ctx: &mut Context<Self>) {
        self.timer = None;
        let mut decisions = Vec::new();
        self.dispatcher.expire(clock::now(), &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct TellObservers;

impl Handler<TellObservers> for LoadManager {
    type Result = ();

    fn handle(&mut self, _: TellObservers, _: &mut Context<Self>) {
        self.tell_observers();
    }
}

/// Adds a recipient that is told of every lease that ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Observe(pub Recipient<LeasesEnded>);

impl Handler<Observe> for LoadManager {
    type Result = ();

    fn handle(&mut self, Observe(observer): Observe, _: &mut Context<Self>) {
        self.observers.push(observer);
    }
}

/// Sets the recipient that is told of endpoints that are to blame for failures.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ObserveBlame(pub Recipient<EndpointBlamed>);

impl Handler<ObserveBlame> for LoadManager {
    type Result = ();

    fn handle(&mut self, ObserveBlame(observer): ObserveBlame, _: &mut Context<Self>) {
        self.blames = Some(observer);
    }
}

#[cfg(test)]
mod tests;
