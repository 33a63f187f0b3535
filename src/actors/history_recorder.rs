//! HistoryRecorder: the timeline, and what is not yet written to the database.
//!
//! Counters reach the database as deltas, one batch at a time. A batch that fails is kept and tried again with what has
//! come since.

use std::collections::HashMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};

use super::answer::{Answer, Caller};
use super::facts::RequestFinished;
use super::persistence::{BatchDone, WriteBatch};
use crate::clock;
use crate::domain::ids::EndpointId;
use crate::domain::request::Outcome;
use crate::domain::timeline::{Minute, Timeline};
use crate::store::endpoints::Counters;

/// Owns the timeline and the unwritten deltas.
pub struct HistoryRecorder {
    timeline: Timeline,
    unwritten: HashMap<EndpointId, Counters>,
    batch_in_flight: bool,
    flush_interval: Duration,
    /// Who waits until everything is written.
    flushing: Option<Caller<()>>,
    persistence: Recipient<WriteBatch>,
}

impl HistoryRecorder {
    pub fn new(flush_interval: Duration, persistence: Recipient<WriteBatch>) -> Self {
        Self {
            timeline: Timeline::default(),
            unwritten: HashMap::new(),
            batch_in_flight: false,
            flush_interval,
            flushing: None,
            persistence,
        }
    }

    fn is_written(&self) -> bool {
        !self.batch_in_flight && self.unwritten.is_empty()
    }

    /// Writes what is not written, if there is any and no batch is on its way.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.batch_in_flight || self.unwritten.is_empty() {
            return;
        }
        self.batch_in_flight = true;
        let counters = self.unwritten.drain().collect();
        self.persistence.do_send(WriteBatch { counters, done: ctx.address().recipient() });
    }
}

impl Actor for HistoryRecorder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.flush_interval, Self::write);
    }
}

impl Handler<RequestFinished> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, RequestFinished(finished): RequestFinished, _: &mut Context<Self>) {
        let minute = clock::wall().timestamp().div_euclid(60);
        match finished.outcome {
            Outcome::Succeeded { .. } => self.timeline.record(minute, true),
            Outcome::Failed(_) => self.timeline.record(minute, false),
            Outcome::Abandoned => {}
        }
        self.unwritten.entry(finished.endpoint).or_default().add(Counters::of(&finished.outcome));
    }
}

impl Handler<BatchDone> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, done: BatchDone, ctx: &mut Context<Self>) {
        self.batch_in_flight = false;
        match done {
            BatchDone::Written if self.is_written() => {
                if let Some(caller) = self.flushing.take() {
                    caller.answer(());
                }
            }
            BatchDone::Written => {
                if self.flushing.is_some() {
                    self.write(ctx);
                }
            }
            BatchDone::Failed(counters, error) => {
                log::error!("statistics not written yet, kept for the next try error={error}");
                for (id, delta) in counters {
                    self.unwritten.entry(id).or_default().add(delta);
                }
            }
        }
    }
}

/// Writes everything; answered once it is written.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

impl Handler<Flush> for HistoryRecorder {
    type Result = Answer<()>;

    fn handle(&mut self, _: Flush, ctx: &mut Context<Self>) -> Answer<()> {
        if self.is_written() {
            return Answer::Now(());
        }
        let (caller, answer) = Caller::keep();
        self.flushing = Some(caller);
        self.write(ctx);
        answer
    }
}

/// Asks for the last sixty minutes, oldest first.
#[derive(Message)]
#[rtype(result = "Vec<Minute>")]
pub struct ReadTimeline;

impl Handler<ReadTimeline> for HistoryRecorder {
    type Result = Vec<Minute>;

    fn handle(&mut self, _: ReadTimeline, _: &mut Context<Self>) -> Vec<Minute> {
        self.timeline.read(clock::wall().timestamp().div_euclid(60))
    }
}
