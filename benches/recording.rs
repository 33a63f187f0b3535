//! The cost of recording: CPU time per request, from the end of its lease to the database file.
//!
//! Ends of leases go to a HistoryRecorder as LoadManager sends them, so many to a batch as end within half a flush interval
//! at 2,000 and at 20,000 requests a second, once with a database file and once with a writer that throws every batch away;
//! the difference is what the database costs. Ends by itself. `cargo bench --bench recording`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Context, Handler, Recipient};
use chrono::Utc;
use leaseway::actors::event_hub::EventHub;
use leaseway::actors::facts::LeasesEnded;
use leaseway::actors::history_recorder::{Flush, HistoryRecorder, Past, Upkeep, Writer};
use leaseway::actors::persistence::{BatchDone, OldRemoved, Persistence, RemoveOld, WriteBatch};
use leaseway::domain::endpoint::EndpointDefinition;
use leaseway::domain::ids::{ClientId, EndpointId, ModelId, RequestId};
use leaseway::domain::request::{ApiKind, EndedLease, LeaseRequest, Outcome, TokenCount};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use leaseway::store::Store;
use leaseway::store::retention::Kept;
use uuid::Uuid;

const REQUESTS: usize = 200_000;
/// Requests between two batches.
const AT_ONCE: [usize; 2] = [500, 5000];
const ENDPOINTS: usize = 10;
const ROUNDS: usize = 9;

/// Linux reports CPU time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// A writer that throws every batch away.
struct Sink;

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<WriteBatch> for Sink {
    type Result = ();

    fn handle(&mut self, WriteBatch { done, .. }: WriteBatch, _: &mut Context<Self>) {
        done.do_send(BatchDone::Written);
    }
}

impl Handler<RemoveOld> for Sink {
    type Result = ();

    fn handle(&mut self, RemoveOld { done, .. }: RemoveOld, _: &mut Context<Self>) {
        done.do_send(OldRemoved { are_left: Ok(false) });
    }
}

fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("its statistics");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    TICK * fields[11..13].iter().map(|field| field.parse::<u32>().expect("a number")).sum()
}

fn ended(number: usize, targets: &[Arc<Target>]) -> LeasesEnded {
    let request = LeaseRequest::new(
        RequestId::from(Uuid::from_u128(number as u128).to_string().as_str()),
        ModelId::from("llama-3.1-8b-instruct"),
        ApiKind::ChatCompletions,
        ClientId::Address([192, 168, 1, (number % 20) as u8].into()),
    );
    LeasesEnded(vec![Arc::new(EndedLease {
        request: Arc::new(request),
        target: targets[number % targets.len()].clone(),
        outcome: Outcome::Succeeded { tokens: Some(TokenCount { input: Some(30), output: 200, estimated: false }) },
        is_final: true,
        granted: Moment::default(),
        duration: Duration::from_millis(2000),
        first_token: Some(Duration::from_millis(150)),
        answered_model: None,
        waited: Duration::ZERO,
    })])
}

/// Sends ended leases to a recorder and returns the CPU time for each, in microseconds.
async fn record(at_once: usize, batches: Recipient<WriteBatch>, removals: Recipient<RemoveOld>) -> f64 {
    let day = Duration::from_secs(24 * 3600);
    let upkeep = Upkeep { flush_interval: day, retention: day, history_max_rows: 1_000_000 };
    let recorder: Addr<HistoryRecorder> = HistoryRecorder::new(
        Past::default(),
        upkeep,
        Writer { batches, removals },
        EventHub::default().start().recipient(),
    )
    .start();
    let target = |number| Target::new(EndpointId(Uuid::from_u128(number)), &EndpointDefinition::new("e", "http://e"));
    let targets: Vec<Arc<Target>> = (0..).map(target).map(Arc::new).take(ENDPOINTS).collect();
    let before = cpu_time();
    for first in (0..REQUESTS).step_by(at_once) {
        (first..first + at_once).for_each(|number| recorder.do_send(ended(number, &targets)));
        recorder.send(Flush).await.expect("alive").expect("written");
    }
    (cpu_time() - before).as_secs_f64() * 1e6 / REQUESTS as f64
}

#[actix_web::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("{REQUESTS} requests, microseconds of CPU time for each");
    println!("to a batch | without database | with database | difference");
    for at_once in AT_ONCE {
        let mut differences = Vec::new();
        for round in 0..ROUNDS {
            let sink = Sink.start();
            let without = record(at_once, sink.clone().recipient(), sink.recipient()).await;
            let path = folder.path().join(format!("{at_once}-{round}.db"));
            let store = Store::open(&format!("sqlite://{}", path.display())).expect("a database");
            let writer = Persistence::start(store);
            let with = record(at_once, writer.clone().recipient(), writer.recipient()).await;
            println!("{at_once} | {without:.2} | {with:.2} | {:.2}", with - without);
            differences.push(with - without);
        }
        differences.sort_unstable_by(f64::total_cmp);
        println!("{at_once}: {:.2} at least, {:.2} half of the time", differences[0], differences[ROUNDS / 2]);
    }
    remove_all(&folder.path().join(format!("{}-0.db", AT_ONCE[0])));
}

/// Removes the rows of a round, as retention does, and prints how long each step holds the writer.
fn remove_all(path: &Path) {
    let mut store = Store::open(&format!("sqlite://{}", path.display())).expect("a database");
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        let are_left = store.remove_old(Kept { since: Utc::now(), rows: 1_000_000 }).expect("removed");
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        if !are_left {
            break;
        }
    }
    let (count, sum, most) = (times.len(), times.iter().sum::<f64>(), times.iter().copied().fold(0.0, f64::max));
    println!("{REQUESTS} rows removed in {count} bits of {:.2} ms, {most:.2} ms at most", sum / count as f64);
}
