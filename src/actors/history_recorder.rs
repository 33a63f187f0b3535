//! HistoryRecorder: the timeline, the totals of requests, and what is not yet written to the database.
//!
//! What ends is counted at once and written soon, one batch at a time, each as one transaction. A batch that fails is kept
//! and tried again with what has come since. Old history is removed bit by bit, between batches.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
use chrono::{DateTime, NaiveDate, Utc};

use super::answer::{Answer, Caller};
use super::event_hub::Publish;
use super::facts::{LeaseEnded, RequestUnserved};
use super::persistence::{BatchDone, OldRowsRemoved, RemoveOldRows, WriteBatch};
use crate::clock;
use crate::domain::event::{Event, MinuteAdvanced};
use crate::domain::history::{Counters, HistoryEnd, HistoryRow, Unwritten};
use crate::domain::request::Outcome;
use crate::domain::time::Moment;
use crate::domain::timeline::{Minute, Timeline};

/// How soon a batch that could not be written is tried again; each time later.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// How often old history is looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);

/// How often viewers hear of the current minute at most.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// What was written before this start.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Of the last hour.
    pub minutes: Vec<Minute>,
    pub totals: Totals,
}

/// Everything that was ever counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By their final answer, however many leases each took.
    pub requests: Counters,
    pub output_tokens: i64,
}

/// How the database is kept up to date.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// The longest that anything waits to be written.
    pub flush_interval: Duration,
    /// The age at which history rows are removed.
    pub retention: Duration,
}

/// Where HistoryRecorder has things written and removed.
pub struct Writer {
    pub batches: Recipient<WriteBatch>,
    pub removals: Recipient<RemoveOldRows>,
}

/// Owns the timeline, the totals and what is unwritten.
pub struct HistoryRecorder {
    timeline: Timeline,
    totals: Totals,
    unwritten: Unwritten,
    /// The server's local day, as of a minute.
    today: (i64, NaiveDate),
    /// Those who wait for the batch that is on its way, if one is.
    in_flight: Option<Vec<Caller<()>>>,
    /// Those who wait for the batch after it.
    flushing: Vec<Caller<()>>,
    /// The time to write has come while a batch was on its way.
    is_due: bool,
    /// Batches in a row that could not be written.
    failures: u32,
    /// Until then none is tried again.
    retry: Moment,
    upkeep: Upkeep,
    writer: Writer,
    events: Recipient<Publish>,
    /// The minute that viewers were told of last, and whether it has changed since.
    told: (i64, bool),
}

impl HistoryRecorder {
    pub fn new(past: Past, upkeep: Upkeep, writer: Writer, events: Recipient<Publish>) -> Self {
        Self {
            timeline: Timeline::from(past.minutes),
            totals: past.totals,
            unwritten: Unwritten::default(),
            today: (i64::MIN, NaiveDate::default()),
            in_flight: None,
            flushing: Vec::new(),
            is_due: false,
            failures: 0,
            retry: Moment::default(),
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
        self.unwritten.record(today, HistoryRow { created_at: wall, end });
    }

    /// Returns the minute and the day. The day is found out once a minute.
    fn look_at_calendar(&mut self, wall: DateTime<Utc>) -> (i64, NaiveDate) {
        let minute = minute_of(wall);
        if self.today.0 != minute {
            self.today = (minute, clock::local_day(wall));
        }
        self.today
    }

    /// Writes what is not written, at once or after the batch that is on its way.
    fn write(&mut self, ctx: &mut Context<Self>) {
        self.is_due = self.in_flight.is_some();
        if self.in_flight.is_some() || self.unwritten.is_empty() || clock::now() < self.retry {
            return;
        }
        self.in_flight = Some(std::mem::take(&mut self.flushing));
        let batch = self.unwritten.take();
        self.writer.batches.do_send(WriteBatch { batch, done: ctx.address().recipient() });
    }

    fn remove_old(&mut self, ctx: &mut Context<Self>) {
        let before = clock::wall() - self.upkeep.retention;
        self.writer.removals.do_send(RemoveOldRows { before, done: ctx.address().recipient() });
    }
}

impl HistoryRecorder {
    /// Tells viewers of the current minute if it is new or has more in it.
    fn tell_minute(&mut self, _: &mut Context<Self>) {
        let current = minute_of(clock::wall());
        let (told, has_more) = std::mem::replace(&mut self.told, (current, false));
        if has_more && told != current {
            // What came after viewers heard of it last.
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
            history_rows_dropped: self.unwritten.rows_dropped(),
        })));
    }
}

/// Returns the minutes since 1970-01-01T00:00Z.
pub fn minute_of(wall: DateTime<Utc>) -> i64 {
    wall.timestamp().div_euclid(60)
}

impl Actor for HistoryRecorder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Half of it to wait for, half of it to write in.
        ctx.run_interval(self.upkeep.flush_interval / 2, Self::write);
        ctx.run_interval(TELL_INTERVAL, Self::tell_minute);
        self.remove_old(ctx);
        ctx.run_interval(RETENTION_INTERVAL, Self::remove_old);
    }
}

impl Handler<LeaseEnded> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, LeaseEnded(ended): LeaseEnded, _: &mut Context<Self>) {
        if let Outcome::Succeeded { tokens: Some(tokens) } = ended.outcome {
            let output = i64::try_from(tokens.output).unwrap_or(i64::MAX);
            self.totals.output_tokens = self.totals.output_tokens.saturating_add(output);
        }
        self.record(HistoryEnd::Lease(ended));
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
        let waiting = self.in_flight.take().unwrap_or_default();
        match done {
            BatchDone::Written => {
                self.unwritten.written();
                if std::mem::take(&mut self.failures) > 0 {
                    let dropped = self.unwritten.rows_dropped();
                    log::info!("statistics are written again history_rows_dropped={dropped}");
                }
                waiting.into_iter().for_each(|caller| caller.answer(()));
                if self.is_due || !self.flushing.is_empty() {
                    self.write(ctx);
                }
            }
            BatchDone::Failed(batch, error) => {
                if self.failures == 0 {
                    log::error!("statistics cannot be written, kept until they can be error=\"{error}\"");
                }
                let pause = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                self.retry = clock::now().after(pause);
                ctx.run_later(pause, Self::write);
                self.failures += 1;
                self.unwritten.put_back(*batch);
                self.flushing.extend(waiting);
            }
        }
    }
}

impl Handler<OldRowsRemoved> for HistoryRecorder {
    type Result = ();

    fn handle(&mut self, OldRowsRemoved { are_left }: OldRowsRemoved, ctx: &mut Context<Self>) {
        match are_left {
            Ok(true) => self.remove_old(ctx),
            Ok(false) => {}
            Err(error) => log::warn!("old history not removed, tried again within the hour error=\"{error}\""),
        }
    }
}

/// Has everything written that has been counted so far; answered once it is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

impl Handler<Flush> for HistoryRecorder {
    type Result = Answer<()>;

    fn handle(&mut self, _: Flush, ctx: &mut Context<Self>) -> Answer<()> {
        if self.unwritten.is_empty() && self.in_flight.is_none() {
            return Answer::Now(());
        }
        self.flushing.retain(|caller| !caller.has_gone());
        let (caller, answer) = Caller::keep();
        match &mut self.in_flight {
            Some(waiting) if self.unwritten.is_empty() => waiting.push(caller),
            Some(_) | None => {
                self.flushing.push(caller);
                self.write(ctx);
            }
        }
        answer
    }
}

/// What viewers see of the history.
#[derive(Clone, Debug)]
pub struct Recent {
    /// The last sixty, oldest first.
    pub minutes: Vec<Minute>,
    pub totals: Totals,
    /// History rows for which there was no room since the start.
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
            rows_dropped: self.unwritten.rows_dropped(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix::Addr;
    use futures_util::FutureExt;
    use tokio::time::{advance, pause};

    use super::*;
    use crate::domain::history::Batch;
    use crate::domain::ids::{ClientId, ModelId, RequestId};
    use crate::domain::request::{ApiKind, LeaseRequest, UnservedRequest};
    use crate::store::StoreError;

    /// A writer that keeps what it is given until it is told what came of it.
    #[derive(Default)]
    struct FakeWriter(Vec<WriteBatch>);

    impl Actor for FakeWriter {
        type Context = Context<Self>;
    }

    impl Handler<WriteBatch> for FakeWriter {
        type Result = ();

        fn handle(&mut self, batch: WriteBatch, _: &mut Context<Self>) {
            self.0.push(batch);
        }
    }

    impl Handler<RemoveOldRows> for FakeWriter {
        type Result = ();

        fn handle(&mut self, _: RemoveOldRows, _: &mut Context<Self>) {}
    }

    impl Handler<Publish> for FakeWriter {
        type Result = ();

        fn handle(&mut self, _: Publish, _: &mut Context<Self>) {}
    }

    /// Ends the batch that is being written. Returns its rows, `None` if there is no batch.
    #[derive(Message)]
    #[rtype(result = "Option<usize>")]
    struct Finish {
        well: bool,
    }

    impl Handler<Finish> for FakeWriter {
        type Result = Option<usize>;

        fn handle(&mut self, Finish { well }: Finish, _: &mut Context<Self>) -> Option<usize> {
            assert!(self.0.len() <= 1, "one batch at a time");
            let WriteBatch { batch, done } = self.0.pop()?;
            let rows = batch.rows.len();
            let failed = |batch: Batch| BatchDone::Failed(Box::new(batch), StoreError::Query("locked".to_owned()));
            done.do_send(if well { BatchDone::Written } else { failed(batch) });
            Some(rows)
        }
    }

    struct Scene {
        recorder: Addr<HistoryRecorder>,
        writer: Addr<FakeWriter>,
    }

    fn scene() -> Scene {
        scene_with(Duration::from_millis(500))
    }

    fn scene_with(flush_interval: Duration) -> Scene {
        pause();
        let writer = FakeWriter::default().start();
        let upkeep = Upkeep { flush_interval, retention: Duration::from_secs(86_400) };
        let to_writer = Writer { batches: writer.clone().recipient(), removals: writer.clone().recipient() };
        let events = writer.clone().recipient();
        Scene { recorder: HistoryRecorder::new(Past::default(), upkeep, to_writer, events).start(), writer }
    }

    impl Scene {
        async fn record(&self) {
            let request = Arc::new(LeaseRequest::new(
                RequestId::from("r"),
                ModelId::from("m"),
                ApiKind::ChatCompletions,
                ClientId::Address([127, 0, 0, 1].into()),
            ));
            let unserved = UnservedRequest { request, refusal: None, waited: Duration::ZERO };
            self.recorder.send(RequestUnserved(unserved)).await.expect("alive");
        }

        /// Lets so much time pass, then ends the batch that is being written.
        async fn finish_after(&self, millis: u64, well: bool) -> Option<usize> {
            advance(Duration::from_millis(millis)).await;
            self.recorder.send(ReadRecent).await.expect("alive");
            let finished = self.writer.send(Finish { well }).await.expect("alive");
            self.recorder.send(ReadRecent).await.expect("alive");
            finished
        }
    }

    #[actix::test]
    async fn batches_follow_one_another_and_a_failed_one_is_tried_again_later() {
        let scene = scene();
        scene.record().await;
        assert_eq!(scene.finish_after(200, true).await, None, "not yet");
        scene.record().await;
        assert_eq!(scene.finish_after(60, false).await, Some(2));
        scene.record().await;
        assert_eq!(scene.finish_after(50, true).await, None, "not at once");
        assert_eq!(scene.finish_after(400, true).await, Some(3), "with what has come since");
        assert_eq!(scene.finish_after(2000, true).await, None, "nothing twice");
    }

    #[actix::test]
    async fn what_could_not_be_written_does_not_wait_for_the_next_interval() {
        let scene = scene_with(Duration::from_secs(60));
        scene.record().await;
        let mut flush = Box::pin(scene.recorder.send(Flush));
        assert!(flush.as_mut().now_or_never().is_none());
        assert_eq!(scene.finish_after(0, false).await, Some(1));
        assert_eq!(scene.finish_after(101, false).await, Some(1));
        assert_eq!(scene.finish_after(201, true).await, Some(1));
        assert_eq!(flush.await, Ok(()));
    }

    #[actix::test]
    async fn a_flush_is_over_when_all_from_before_it_is_written() {
        let scene = scene();
        let flush = || Box::pin(scene.recorder.send(Flush));
        assert_eq!(flush().await, Ok(()), "there is nothing to write");
        scene.record().await;
        let mut first = flush();
        assert!(first.as_mut().now_or_never().is_none());
        scene.recorder.send(ReadRecent).await.expect("alive");
        // Its batch is on its way; what comes now is no part of it.
        let mut second = flush();
        assert!(second.as_mut().now_or_never().is_none());
        scene.record().await;
        let mut third = flush();
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(scene.finish_after(0, false).await, Some(1));
        assert!(first.as_mut().now_or_never().is_none(), "it failed");
        assert_eq!(scene.finish_after(600, true).await, Some(2));
        assert_eq!((first.await, second.await, third.await), (Ok(()), Ok(()), Ok(())));
    }
}
