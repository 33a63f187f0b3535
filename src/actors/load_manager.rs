//! LoadManager: who holds a slot, who waits.
//!
//! The decisions are the [`Dispatcher`]'s; this actor reads the clock, keeps those who wait for an answer and arms one
//! timer. Every handler answers within microseconds and awaits nothing.

mod desk;
mod draining;
mod reads;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};

pub use self::desk::LeaseDesk;
pub use self::draining::Drain;
pub use self::reads::{LineReport, Load, ReadInFlight, ReadLine, ReadLoad, ReadSelections, SelectionReport};
pub use self::watchers::QueueUpdates;
use self::watchers::Watchers;
use super::answer::{Answer, Caller};
use super::event_hub::Publish;
use super::facts::{EndpointsChanged, LeaseEnded, LoadReported, RequestUnserved};
use crate::clock::{self, Stopwatch};
use crate::domain::dispatch::choose::Balancing;
use crate::domain::dispatch::{Decision, Dispatcher, Grant, QueueRules, Submitted};
use crate::domain::event::{Event, QueueDepth};
use crate::domain::ids::Ticket;
use crate::domain::last_hour::LastHour;
use crate::domain::request::{EndedLease, LeaseRequest, Refusal, UnservedRequest};
use crate::domain::time::Moment;
use crate::lease::{EndLease, Lease};

/// How often viewers hear of the line at most.
const DEPTH_INTERVAL: Duration = Duration::from_millis(100);

/// How often viewers hear of the line at least.
const MEANS_INTERVAL: Duration = Duration::from_secs(60);

/// How often those who wait hear of their place at most.
const UPDATES_INTERVAL: Duration = Duration::from_millis(100);

type LeaseAnswer = Result<Lease, Refusal>;

/// Somebody who waits for a lease.
struct Waiter {
    caller: Caller<LeaseAnswer>,
    request: Arc<LeaseRequest>,
    since: Moment,
}

/// Owns the dispatcher and those who wait for its answers.
pub struct LoadManager {
    dispatcher: Dispatcher,
    waiting: HashMap<Ticket, Waiter>,
    watchers: Watchers,
    /// Watchers are to be told soon.
    updates_due: bool,
    /// Who wait until no lease is held.
    draining: Option<Caller<usize>>,
    observers: Vec<Recipient<LeaseEnded>>,
    unserved: Recipient<RequestUnserved>,
    events: Recipient<Publish>,
    /// Where leases report their end; set when the actor starts.
    report: Option<Arc<Recipient<EndLease>>>,
    timer: Option<(Moment, SpawnHandle)>,
    /// Spent on granting leases.
    selection_time: Duration,
    /// Requests that wait and leases held, as viewers will have been told.
    depth: (usize, usize),
    /// A lease was granted or has ended, which may have moved slots from one endpoint to another.
    slots_moved: bool,
    depth_told: bool,
    last_hour: LastHour,
}

impl LoadManager {
    /// Creates a manager whose line and choices obey these rules.
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
            unserved,
            events,
            report: None,
            timer: None,
            selection_time: Duration::ZERO,
            depth: (0, 0),
            slots_moved: false,
            depth_told: true,
            last_hour: LastHour::default(),
        }
    }

    fn lease(&mut self, grant: Grant) -> Lease {
        self.last_hour.granted(clock::now(), grant.waited);
        self.slots_moved = true;
        let report = self.report.clone().expect("set when the actor started, before its first message");
        Lease::new(grant, report)
    }

    /// Carries out decisions about waiting requests, then arms the timer for the next.
    fn carry_out(&mut self, decisions: Vec<Decision>, ctx: &mut Context<Self>) {
        for decision in decisions {
            match decision {
                Decision::Grant(ticket, grant) => {
                    // A caller that has gone drops the lease, which comes back as its end.
                    let lease = self.lease(grant);
                    if let Some(waiter) = self.waiting.remove(&ticket) {
                        waiter.caller.answer(Ok(lease));
                    }
                }
                Decision::Refuse(ticket, refusal) => {
                    if let Some(Waiter { caller, request, since }) = self.waiting.remove(&ticket) {
                        self.tell_unserved(request, Some(refusal.clone()), since);
                        caller.answer(Err(refusal));
                    }
                }
            }
        }
        if self.waiting.is_empty() {
            // Gives back what the longest line has taken.
            self.waiting = HashMap::new();
        }
        self.arm_timer(ctx);
        self.note_depth(ctx);
        self.note_updates(ctx);
        if self.dispatcher.active() == 0
            && let Some(caller) = self.draining.take()
        {
            caller.answer(0);
        }
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

    fn note_depth(&mut self, ctx: &mut Context<Self>) {
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

    fn note_updates(&mut self, ctx: &mut Context<Self>) {
        self.watchers.note_change();
        self.arm_updates(ctx);
    }

    fn arm_updates(&mut self, ctx: &mut Context<Self>) {
        if !self.updates_due && self.watchers.has_untold() {
            self.updates_due = true;
            ctx.notify_later(UpdatesDue, UPDATES_INTERVAL);
        }
    }

    /// Ends a lease; `None` if it has ended before.
    fn end(&mut self, end: EndLease, decisions: &mut Vec<Decision>) -> Option<EndedLease> {
        let EndLease { lease, outcome, first_token } = end;
        let stopwatch = Stopwatch::start();
        let ended = self.dispatcher.end(clock::now(), lease, outcome, decisions)?;
        if !decisions.is_empty() {
            self.selection_time += stopwatch.elapsed();
        }
        Some(EndedLease { first_token, ..ended })
    }

    fn tell_ended(&mut self, ended: EndedLease) {
        self.last_hour.ended(clock::now(), &ended.outcome, ended.duration);
        self.slots_moved = true;
        log::debug!("lease ended {ended}");
        let ended = Arc::new(ended);
        for observer in &self.observers {
            observer.do_send(LeaseEnded(ended.clone()));
        }
    }

    fn tell_unserved(&mut self, request: Arc<LeaseRequest>, refusal: Option<Refusal>, since: Moment) {
        let now = clock::now();
        if let Some(refusal) = &refusal {
            self.last_hour.refused(now, refusal);
        }
        self.unserved.do_send(RequestUnserved(UnservedRequest { request, refusal, waited: now.since(since) }));
    }
}

impl Actor for LoadManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.report = Some(Arc::new(ctx.address().recipient()));
        // Means over the last hour move although nothing happens.
        ctx.run_interval(MEANS_INTERVAL, |_, ctx| ctx.notify(DepthDue));
    }
}

/// Asks for a lease before `deadline`.
#[derive(Message)]
#[rtype(result = "Result<Lease, Refusal>")]
pub struct AcquireLease {
    pub ticket: Ticket,
    pub request: Arc<LeaseRequest>,
    /// Of a retry: the attempt before it, which ends with the asking.
    pub failed: Option<Lease>,
    pub deadline: Moment,
    /// Where to tell of the wait, if there is one.
    pub updates: Option<QueueUpdates>,
}

impl Handler<AcquireLease> for LoadManager {
    type Result = Answer<LeaseAnswer>;

    fn handle(&mut self, message: AcquireLease, ctx: &mut Context<Self>) -> Answer<LeaseAnswer> {
        let AcquireLease { ticket, request, failed, deadline, updates } = message;
        let mut decisions = Vec::new();
        let failed = match failed.map(|lease| self.end(lease.into_end(), &mut decisions)) {
            // It was cut off when the shutdown grace was over, and its request with it.
            Some(None) => {
                self.carry_out(decisions, ctx);
                return Answer::Now(Err(Refusal::Draining));
            }
            ended => ended.flatten(),
        };
        let now = clock::now();
        let stopwatch = Stopwatch::start();
        let submitted = self.dispatcher.submit(now, ticket, request.clone(), deadline, &mut decisions);
        // A retry that nobody is left for has ended with the attempt before it.
        let ends_before = matches!(submitted, Submitted::Refused(Refusal::NothingUntried { .. }));
        if let Some(failed) = failed {
            self.tell_ended(EndedLease { is_final: ends_before, ..failed });
        }
        let answer = match submitted {
            Submitted::Granted(grant) => {
                self.selection_time += stopwatch.elapsed();
                Answer::Now(Ok(self.lease(grant)))
            }
            Submitted::Refused(refusal) => {
                if !ends_before {
                    self.tell_unserved(request, Some(refusal.clone()), now);
                }
                Answer::Now(Err(refusal))
            }
            Submitted::Waiting => {
                let (caller, answer) = Caller::keep();
                self.waiting.insert(ticket, Waiter { caller, request, since: now });
                if let Some(updates) = updates {
                    self.watchers.add(&self.dispatcher, ticket, updates);
                }
                answer
            }
        };
        self.carry_out(decisions, ctx);
        answer
    }
}

/// Takes a request out of the line; without effect if it has its answer.
#[derive(Message)]
#[rtype(result = "()")]
struct CancelWait(Ticket);

impl Handler<CancelWait> for LoadManager {
    type Result = ();

    fn handle(&mut self, CancelWait(ticket): CancelWait, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        if let Some(Waiter { request, since, .. }) = self.waiting.remove(&ticket) {
            self.tell_unserved(request, None, since);
        }
        self.dispatcher.cancel(clock::now(), ticket, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

impl Handler<EndLease> for LoadManager {
    type Result = ();

    fn handle(&mut self, end: EndLease, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        if let Some(ended) = self.end(end, &mut decisions) {
            self.tell_ended(ended);
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

/// Adds somebody who is told of every lease that ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Observe(pub Recipient<LeaseEnded>);

impl Handler<Observe> for LoadManager {
    type Result = ();

    fn handle(&mut self, Observe(observer): Observe, _: &mut Context<Self>) {
        self.observers.push(observer);
    }
}

#[cfg(test)]
mod tests;
