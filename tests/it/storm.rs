//! Endpoints die and come back and clients leave at random: at the end nothing is held and every count is right.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join, join_all, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::time::{interval, timeout};

use crate::support::database::{Database, LeaseRow};
use crate::support::fake_endpoint::{DONE, FINISH, Received, STREAM_HEAD, chunk, content, json_answer, stream_answer};
use crate::support::process::{Process, leaseway};
use crate::support::{FakeEndpoint, RawClient, Step, soon};

const CHAT: &str = "/v1/chat/completions";
const ENDPOINTS: usize = 4;
const SLOTS: usize = 4;
const CLIENTS: usize = 300;
const DURATION: Duration = Duration::from_secs(20);

/// What a client that stayed received.
struct Got {
    id: String,
    /// The name of the endpoint whose whole answer came; `None` for an honest error or a visibly cut answer.
    endpoint: Option<String>,
}

/// What all clients of the storm share.
struct Storm {
    address: SocketAddr,
    ends: Instant,
    next: Cell<u64>,
    got: RefCell<Vec<Got>>,
    left: Cell<usize>,
}

/// Answers with the request's own id, in as many pieces as the id says; now and then with a fault.
fn answer(received: &Received) -> Vec<Step> {
    let question = received.json();
    let id = question["user"].as_str().unwrap_or_default().to_owned();
    let number: u64 = id.parse().expect("a number");
    let gates = vec![Step::Gate; (number % 5) as usize];
    let text = content(&id);
    match (number % 37, question["stream"] == json!(true)) {
        (0, _) => json_answer(500, "{\"error\":{\"message\":\"broken\",\"type\":\"x\",\"param\":null,\"code\":null}}"),
        (1, _) => [gates, vec![Step::Reset]].concat(),
        (2, true) => vec![Step::Send(STREAM_HEAD.to_owned()), Step::Send(chunk(&text)), Step::Gate, Step::Close],
        (_, true) => {
            let mut steps = stream_answer(&[text, FINISH.to_owned(), DONE.to_owned()]);
            steps.splice(2..2, gates);
            steps
        }
        (_, false) => [gates, json_answer(200, &json!({ "id": id, "choices": [] }).to_string())].concat(),
    }
}

/// Judges what a client has read until its connection closed. Returns the endpoint's name if the answer is whole; panics if
/// the answer is neither whole nor plainly an error.
fn judge(id: &str, text: &str) -> Option<String> {
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "one answer: {text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("half a head: {text}"));
    let status: u16 = head[9..12].parse().expect("a status");
    if status != 200 {
        assert!([429, 500, 502, 503, 504].contains(&status) && body.contains("\"error\":{"), "{text}");
        return None;
    }
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let is_whole = match header("content-length: ") {
        Some(length) => length.parse() == Ok(body.len()),
        None => body.ends_with("\r\n0\r\n\r\n"),
    };
    if !is_whole {
        let is_stream = head.contains("text/event-stream");
        assert!(!is_stream || (body.contains("data: {\"error\":{") && !body.contains(DONE)), "a silent cut: {text}");
        return None;
    }
    assert!(body.contains(&format!("\"{id}\"")), "somebody else's answer: {text}");
    Some(header("x-leaseway-endpoint: ").expect("a name").to_owned())
}

/// One client, which asks again and again; every third request is left after a random time.
async fn client(storm: Rc<Storm>, mut random: StdRng, leaves: bool) {
    while Instant::now() < storm.ends {
        let id = storm.next.replace(storm.next.get() + 1).to_string();
        let body = json!({ "model": "m", "user": id, "stream": random.random_bool(0.5) });
        let headers = format!("connection: close\r\nx-request-id: {id}\r\n");
        let mut connection = RawClient::post_with(storm.address, CHAT, &headers, &body).await;
        let patience = Duration::from_millis(random.random_range(0..400));
        if leaves {
            if timeout(patience, connection.read_to_end()).await.is_err() {
                storm.left.set(storm.left.get() + 1);
            }
            continue;
        }
        let endpoint = judge(&id, &connection.read_to_end().await);
        let is_error = endpoint.is_none();
        storm.got.borrow_mut().push(Got { id, endpoint });
        if is_error {
            // A good client waits as long as it is told.
            pause(patience).await;
        }
    }
}

/// Paces the storm. No expectation depends on this time.
async fn pause(period: Duration) {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.tick().await;
    ticks.tick().await;
}

/// Kills an endpoint, revives it, and goes on, until the storm is over.
async fn weather(endpoints: &RefCell<Vec<FakeEndpoint>>, storm: &Storm, mut random: StdRng) -> usize {
    let mut killed = 0;
    while Instant::now() < storm.ends {
        pause(Duration::from_millis(random.random_range(50..600))).await;
        let alive = endpoints.borrow().len();
        let mut endpoint = endpoints.borrow_mut().swap_remove(random.random_range(0..alive));
        endpoint.kill().await;
        killed += 1;
        pause(Duration::from_millis(random.random_range(0..600))).await;
        endpoint.revive();
        endpoints.borrow_mut().push(endpoint);
    }
    killed
}

/// Lets answers that have begun go on, piece by piece.
async fn go_on(endpoints: &RefCell<Vec<FakeEndpoint>>) {
    let mut ticks = interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        for endpoint in endpoints.borrow().iter().filter(|endpoint| endpoint.counts().in_flight > 0) {
            endpoint.release(1);
        }
    }
}

async fn get(address: SocketAddr, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = RawClient::send(address, &request).await.read_to_end().await;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Starts Leaseway in front of these endpoints, and returns once all are online.
async fn start(folder: &Path, endpoints: &[FakeEndpoint]) -> Process {
    // However slow the machine is, nobody waits for longer than a test is patient.
    let mut text = String::from("upstream.pool_idle_timeout_secs = 1\nhealth.interval_secs = 1\n");
    text += "queue.max_waiting = 300\nqueue.timeout_secs = 3\n";
    for (number, endpoint) in endpoints.iter().enumerate() {
        let url = endpoint.url();
        text += &format!("[[endpoints]]\nname = \"e{number}\"\nbase_url = \"{url}\"\nmax_concurrency = {SLOTS}\n");
    }
    fs::write(folder.join("leaseway.toml"), text).expect("written");
    let mut command = leaseway(folder, &["serve", "--config", "leaseway.toml"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    let mut process = Process::start(command);
    for number in 0..endpoints.len() {
        process.line(&format!("online, was pending endpoint=e{number}")).await;
    }
    process
}

/// Returns the id in the body of a request.
fn id(body: &str) -> String {
    let question: Value = serde_json::from_str(body).expect("a JSON body");
    question["user"].as_str().expect("an id").to_owned()
}

/// Checks what Leaseway counts for one endpoint, and the leases that the database has of it, against what the endpoint has
/// seen and clients have got of it.
fn check_counts(view: &Value, leases: &[LeaseRow], endpoint: &FakeEndpoint, got: &[Got]) {
    let name = view["name"].as_str().expect("a name");
    let leases: HashMap<&str, &LeaseRow> = {
        let own: Vec<&LeaseRow> = leases.iter().filter(|lease| view["id"] == lease.endpoint_id).collect();
        let by_id: HashMap<&str, &LeaseRow> = own.iter().map(|lease| (lease.request_id.as_str(), *lease)).collect();
        assert_eq!(by_id.len(), own.len(), "{name}: each request is tried once");
        by_id
    };
    let counted = ["total_requests", "successful_requests", "failed_requests"].map(|field| view[field].as_u64());
    let with_status = |status: &str| leases.values().filter(|lease| lease.status == status).count();
    let (succeeded, failed) = (with_status("succeeded"), with_status("failed"));
    let written = [leases.len(), succeeded, failed].map(|count| Some(count as u64));
    assert_eq!(counted, written, "{name}: what is counted is written");

    let received: Vec<String> = endpoint.received().iter().map(|received| id(&received.body)).collect();
    let arrived: HashSet<&str> = received.iter().map(String::as_str).collect();
    assert_eq!(arrived.len(), received.len(), "{name}: one lease, one execution");
    let foreign: Vec<&&str> = arrived.iter().filter(|id| !leases.contains_key(**id)).collect();
    assert!(foreign.is_empty(), "{name}: no execution without a lease: {foreign:?}");
    // Only what the endpoint was killed before it could read, or a client left before it was sent, has not arrived.
    let missing: Vec<&&LeaseRow> =
        leases.values().filter(|lease| !arrived.contains(lease.request_id.as_str())).collect();
    let is_unsent = |lease: &&&LeaseRow| {
        let never_read = ["cannot be reached", "connection lost"].iter().any(|reason| lease.error.starts_with(reason));
        lease.status == "abandoned" || (lease.status == "failed" && never_read)
    };
    let odd: Vec<&&&LeaseRow> = missing.iter().filter(|lease| !is_unsent(lease)).collect();
    assert!(odd.is_empty(), "{name}: these leases have ended otherwise, and never arrived: {odd:?}");

    let completed: HashSet<String> = endpoint.completed().iter().map(|body| id(body)).collect();
    let is_broken = |id: &str| id.parse::<u64>().expect("a number") % 37 == 0;
    for lease in leases.values().filter(|lease| lease.status == "succeeded" || lease.error == "answered 500") {
        let id = &lease.request_id;
        assert!(completed.contains(id) && is_broken(id) != (lease.status == "succeeded"), "{name}: {lease:?}");
    }
    for id in completed.iter().filter(|id| !is_broken(id)) {
        let lease = leases[id.as_str()];
        assert!(["succeeded", "abandoned"].contains(&lease.status.as_str()), "{name}: {lease:?} was answered");
    }
    let is_its = |got: &&Got| got.endpoint.as_deref() == Some(name);
    let whole: HashSet<&String> = got.iter().filter(is_its).map(|got| &got.id).collect();
    let is_completed = |id: &&String| completed.contains(*id) && !is_broken(id);
    let of_those_who_stayed: HashSet<&String> = got.iter().map(|got| &got.id).filter(is_completed).collect();
    assert_eq!(whole, of_those_who_stayed, "{name}: what it has completed has reached its clients");
    println!(
        "{name}: {} leases, {succeeded} successful, {failed} failed; {} arrived, {} never read; {} got whole",
        leases.len(),
        arrived.len(),
        missing.len(),
        whole.len()
    );
}

#[actix_web::test]
async fn a_storm_leaves_nothing_behind() {
    let seed: u64 = match std::env::var("LEASEWAY_STORM_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::rng().random::<u32>().into(),
    };
    println!("LEASEWAY_STORM_SEED={seed}");
    let mut endpoints = Vec::new();
    for _ in 0..ENDPOINTS {
        let endpoint = FakeEndpoint::start(&["m"]).await;
        endpoint.script(answer);
        endpoints.push(endpoint);
    }
    let folder = tempdir().expect("a folder");
    let mut process = start(folder.path(), &endpoints).await;
    let (address, open_files) = (process.address().await, process.open_files());

    let storm = Rc::new(Storm {
        address,
        ends: Instant::now() + DURATION,
        next: Cell::new(0),
        got: RefCell::default(),
        left: Cell::new(0),
    });
    let endpoints = RefCell::new(endpoints);
    let random = |number: u64| StdRng::seed_from_u64(seed ^ (number << 32));
    let clients = (0..CLIENTS).map(|number| client(storm.clone(), random(number as u64), number % 3 == 0));
    let weathers = (1..=2).map(|number| weather(&endpoints, &storm, random(number << 20)));
    let all = Box::pin(timeout(DURATION * 2, join(join_all(weathers), join_all(clients))));
    let Either::Left((ended, _)) = select(all, Box::pin(go_on(&endpoints))).await else { panic!("it goes on") };
    let killed: usize = ended.expect("every client has its answer").0.iter().sum();

    let idle = async {
        loop {
            let load = get(address, "/api/load-status").await;
            if load["active_leases"] == 0 && load["queue_size"] == 0 {
                return;
            }
        }
    };
    soon("no lease and nobody waiting", idle).await;
    let (got, endpoints, left) = (storm.got.take(), endpoints.take(), storm.left.get());
    let views = get(address, "/api/endpoints").await;
    let distinct: HashSet<&String> = got.iter().map(|got| &got.id).collect();
    assert_eq!(distinct.len(), got.len(), "one answer each");
    let whole = got.iter().filter(|got| got.endpoint.is_some()).count();
    println!("{} answers, {whole} of them whole; {left} clients left, {killed} kills", got.len());
    assert!(whole > 100 && left > 100 && killed > 10, "a storm in a glass of water");
    let closed = async {
        while process.open_files() > open_files {
            pause(Duration::from_millis(50)).await;
        }
    };
    soon(&format!("{open_files} open files again"), closed).await;

    process.signal("TERM");
    assert!(process.wait().await.success());
    let mut database = Database::open(&folder.path().join("leaseway.db"));
    database.check();
    let leases = database.leases();
    for view in views.as_array().expect("a list") {
        let is_its = |endpoint: &&FakeEndpoint| view["base_url"] == endpoint.url();
        check_counts(view, &leases, endpoints.iter().find(is_its).expect("one of them"), &got);
    }
}
