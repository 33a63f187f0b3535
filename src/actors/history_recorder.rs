//! HistoryRecorder: keeps the timeline, the totals of requests, and the history that is not yet written to the database.
//!
//! The end of a lease or request is counted at once. [`WriteBehind`] decides when it is written, [`Retention`] when old
//! history is removed; Persistence executes both.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
use chrono::{DateTime, NaiveDate, Utc};

use super::event_hub::Publish;
use super::facts::{LeasesEnded, RequestUnserved};
use super::persistence::{BatchDone, OldRemoved, RemoveOld, WriteBatch};
use super::promise::{Caller, Promise};
use crate::clock;
use crate::domain::event::{Event, MinuteAdvanced};
use crate::domain::history::{Counters, HistoryEnd, HistoryRow};
use crate::domain::request::Outcome;
use crate::domain::retention::Retention;
use crate::domain::timeline::{Minute, Timeline, minute_of};
use crate::domain::write_behind::{BatchNumber, WriteBehind};
use crate::store::StoreError;
use crate::store::retention::Kept;

/// The shortest time between two events about the current minute.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// The history that earlier runs have written.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The minutes of the last hour in which requests ended.
    pub minutes: Vec<Minute>,
    /// The totals of all earlier runs.
    pub totals: Totals,
}

/// The totals since the database was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests, counted once each by their final outcome, however many leases a request took.
    pub requests: Counters,
    /// Tokens that endpoints generated.
    pub output_tokens: i64,
}

/// When history is written, and how much of it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// The longest time between the end of a request and its write.
    pub flush_interval: Duration,
    /// The age at which history rows are removed.
    pub retention: Duration,
    /// The most history rows that are kept, at least 1.
    pub history_max_rows: u32,
}

/// The recipients that write and remove history for HistoryRecorder.
pub struct Writer {
    /// Writes batches.
    pub batches: Recipient<WriteBatch>,
    /// Removes old history.
    pub removals: Recipient<RemoveOld>,
}

/// Owns the timeline, the totals and the history that is not yet written.
pub struct HistoryRecorder {
    timeline: Timeline,
    totals: Totals,
    write_behind: WriteBehind,
    retention: Retention,
    /// A minute since the epoch, and the server's local day in that minute.
    today: (i64, NaiveDate),
    /// Callers that wait until a batch is written or fails. Each is an HTTP request and is removed once its client has left, so that the
    /// number of the server's connections is their bound.
    flushing: Vec<(BatchNumber, Caller<Result<(), StoreError>>)>,
    upkeep: Upkeep,
    writer: Writer,
    events: Recipient<Publish>,
    /// The minute of the last event to viewers, and whether requests have been counted since that event.
    told: (i64, bool),
}

impl HistoryRecorder {
    /// Creates a recorder that goes on from `past`.
    pub fn new(past: Past, upkeep: Upkeep, writer: Writer, events: Recipient<Publish>) -> Self {
        Self {
            timeline: Timeline::from(past.minutes),
            totals: past.totals,
            write_behind: WriteBehind::default(),
            retention: Retention::new(upkeep.history_max_rows),
            today: (i64::MIN, NaiveDate::default()),
            flushing: Vec::new(),
            upkeep,
            writer,
            events,
            told: (minute_of(clock::wall()), false),
        }
    }

    fn record(&mut self, end: HistoryEnd) {
        let wall = clock::wall();
        let (minute, today) = self.look_at_calendar(wall);
        if let Some(request) = end.request() {
            self.timeline.record(minute, request);
            self.totals.requests.add(request);
            self.told.1 = true;
        }
        self.write_behind.record(today, HistoryRow { created_at: wall, end });
    }

    /// Returns the minute since the epoch and the server's local day. The day is computed once a minute.
    fn look_at_calendar(&mut self, wall: DateTime<Utc>) -> (i64, NaiveDate) {
        let minute = minute_of(wall);
        if self.today.0 != minute {
            self.today = (minute, clock::local_day(wall));
        }
        self.today
    }

    fn write_in_time(&mut self, ctx: &mut Context<Self>) {
        self.write_behind.interval_passed();
        self.write(ctx);
        self.remove_old(ctx);
    }

    /// Sends the next batch on its way if its time has come.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if let Some(batch) = self.write_behind.next(clock::now()) {
            self.writer.batches.do_send(WriteBatch { batch, done: ctx.address().recipient() });
        }
    }

    /// Sends the next removal of old history on its way if its time has come.
    fn remove_old(&mut self, ctx: &mut Context<Self>) {
        if self.retention.is_due(clock::now()) {
            let kept =
                Kept { since: clock::wall() - self.upkeep.retention, rows: i64::from(self.upkeep.history_max_rows) };
            self.writer.removals.do_send(RemoveOld { kept, done: ctx.address().recipient() });
        }
    }
}

impl HistoryRecorder {
    /// Sends viewers the current minute if it has begun or has changed since the last event.
    fn tell_minute(&mut self, _: &mut Context<Self>) {
        let current = minute_of(clock::wall());
        let (told, has_more) = std::mem::replace(&mut self.told, (current, false));
        if has_more && told != current {
            // Requests ended in the old minute after its last event.
            self.publish_minute(told);
        }
        if has_more || told != current {
            self.publish_minute(current);
        }
    }

    fn publish_minute(&self, minute: i64) {
        let Minute { success, error, .. } = self.timeline.at(minute);
        let Totals { requests, output_tokens } = self.totals;
        self.events.do_send(Publish(Event::MinuteAdvanced(MinuteAdvanced {
            minute: DateTime::from_timestamp(minute * 60, 0).unwrap_or_default(),
            success,
            error,
            total_requests: requests.total,
            successful_requests: requests.successful,
            failed_requests: requests.failed,
            total_output_tokens: output_tokens,
            history_rows_dropped: self.write_behind.rows_dropped(),
        })));
    }
}

impl Actor for HistoryRecorder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Flushing twice per interval leaves half of it for the write itself.
        ctx.run_interval(self.upkeep.flush_interval / 2, Self::write_in_time);
        ctx.run_interval(TELL_INTERVAL, Self::tell_minute);
        self.remove_old(ctx);
    }
}

impl Handler<LeasesEnded> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, LeasesEnded(ended): LeasesEnded, _: &mut Context<Self>) {
        for ended in ended {
            if let Outcome::Succeeded { tokens: Some(tokens) } = ended.outcome {
                let output = i64::try_from(tokens.output).unwrap_or(i64::MAX);
                self.totals.output_tokens = self.totals.output_tokens.saturating_add(output);
            }
            self.record(HistoryEnd::Lease(ended));
        }
    }
}

impl Handler<RequestUnserved> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, RequestUnserved(unserved): RequestUnserved, _: &mut Context<Self>) {
        self.record(HistoryEnd::Unserved(unserved));
    }
}

impl Handler<BatchDone> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, done: BatchDone, ctx: &mut Context<Self>) {
        match done {
            BatchDone::Written => {
                let written = self.write_behind.written();
                self.retention.rows_added(written.rows);
                if written.is_recovery {
                    let dropped = self.write_behind.rows_dropped();
                    log::info!("statistics are written again history_rows_dropped={dropped}");
                }
                let is_written = |(number, _): &mut (BatchNumber, _)| *number <= written.number;
                self.flushing.extract_if(.., is_written).for_each(|(_, caller)| caller.answer(Ok(())));
                self.write(ctx);
                self.remove_old(ctx);
            }
            BatchDone::Failed(batch, error) => {
                let failed = self.write_behind.failed(*batch, clock::now());
                for (_, caller) in self.flushing.drain(..) {
                    caller.answer(Err(error.clone()));
                }
                // `Store` itself logs that the database is away.
                if failed.is_first && !matches!(error, StoreError::Away(_)) {
                    log::error!("statistics cannot be written, they are kept and written later error=\"{error}\"");
                }
                ctx.run_later(failed.pause, Self::write);
            }
        }
    }
}

impl Handler<OldRemoved> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, OldRemoved { are_left }: OldRemoved, ctx: &mut Context<Self>) {
        if let Err(error) = &are_left {
            log::warn!("old history is not removed, the next try is within the hour error=\"{error}\"");
        }
        self.retention.removed(are_left.unwrap_or(false), clock::now());
        self.remove_old(ctx);
    }
}

/// Makes the recorder write everything that has been counted so far. The answer comes once that is written, or with the
/// reason as soon as a batch fails. What failed is tried again in any case.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Flush;

impl Handler<Flush> for HistoryRecorder {
    type Result = Promise<Result<(), StoreError>>;

    fn handle(&mut self, _: Flush, ctx: &mut Context<Self>) -> Self::Result {
        let Some(number) = self.write_behind.flush() else { return Promise::Now(Ok(())) };
        self.flushing.retain(|(_, caller)| !caller.has_gone());
        let (caller, answer) = Caller::keep();
        self.flushing.push((number, caller));
        self.write(ctx);
        answer
    }
}

/// What viewers see of the history.
#[derive(Clone, Debug)]
pub struct Recent {
    /// The last 60 minutes, oldest first.
    pub minutes: Vec<Minute>,
    /// The totals since the database was created.
    pub totals: Totals,
    /// History rows that were dropped since the start because there was no room for them.
    pub rows_dropped: u64,
}

/// Asks for the timeline and the totals.
#[derive(Message)]
#[rtype(result = "Recent")]
pub struct ReadRecent;

impl Handler<ReadRecent> for HistoryRecorder {
    type Result = MessageResult<ReadRecent>;

    fn handle(&mut self, _: ReadRecent, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Recent {
            minutes: self.timeline.read(minute_of(clock::wall())),
            totals: self.totals,
            rows_dropped: self.write_behind.rows_dropped(),
        })
    }
}

#[cfg(test)]
mod tests;
