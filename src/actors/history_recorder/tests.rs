use std::sync::Arc;

use actix::Addr;
use futures_util::FutureExt;
use tokio::time::{advance, pause};

use super::*;
use crate::domain::ids::{ClientId, ModelId, RequestId};
use crate::domain::request::{ApiKind, LeaseRequest, UnservedRequest};

/// The outcome of a batch that fails.
fn locked() -> Result<(), StoreError> {
    Err(StoreError::Query("locked".to_owned()))
}

/// A writer that keeps each batch until the test says what came of it.
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

impl Handler<RemoveOld> for FakeWriter {
    type Result = ();

    fn handle(&mut self, _: RemoveOld, _: &mut Context<Self>) {}
}

impl Handler<Publish> for FakeWriter {
    type Result = ();

    fn handle(&mut self, _: Publish, _: &mut Context<Self>) {}
}

/// Ends the batch that is being written. Returns its rows; `None` if no batch is being written.
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
        let outcome = if well { Ok(()) } else { locked() };
        done.do_send(outcome.map_or_else(|error| BatchDone::Failed(Box::new(batch), error), |()| BatchDone::Written));
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
    let upkeep = Upkeep { flush_interval, retention: Duration::from_secs(86_400), history_max_rows: 1000 };
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

    /// Lets time pass, then ends the batch that is being written.
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
    assert_eq!(flush.await, Ok(locked()));
    assert_eq!(scene.finish_after(101, false).await, Some(1));
    assert_eq!(scene.finish_after(201, true).await, Some(1));
}

#[actix::test]
async fn a_flush_is_over_when_all_from_before_it_is_written_or_a_batch_fails() {
    let scene = scene();
    let flush = || Box::pin(scene.recorder.send(Flush));
    assert_eq!(flush().await, Ok(Ok(())), "there is nothing to write");
    scene.record().await;
    let mut first = flush();
    assert!(first.as_mut().now_or_never().is_none());
    scene.recorder.send(ReadRecent).await.expect("alive");
    // The batch is on its way; requests that end now are no part of it.
    let mut second = flush();
    assert!(second.as_mut().now_or_never().is_none());
    scene.record().await;
    let mut third = flush();
    assert!(third.as_mut().now_or_never().is_none());
    assert_eq!(scene.finish_after(0, true).await, Some(1));
    assert_eq!((first.await, second.await), (Ok(Ok(())), Ok(Ok(()))));
    assert!(third.as_mut().now_or_never().is_none());
    assert_eq!(scene.finish_after(0, false).await, Some(1));
    assert_eq!(third.await, Ok(locked()));
    let mut fourth = flush();
    assert!(fourth.as_mut().now_or_never().is_none(), "the next answer is that of the next try");
    assert_eq!(scene.finish_after(600, true).await, Some(1));
    assert_eq!(fourth.await, Ok(Ok(())));
}
