//! Endpoints that send answers nobody asked for: no answer reaches the wrong client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{FakeEndpoint, TestApp, soon};

const CHAT: &str = "/v1/chat/completions";

/// How an endpoint sends one answer more than it was asked for.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// How long after the right answer.
    delay: Duration,
    in_pieces: bool,
    nagle: bool,
    /// The next request is answered only after the surplus answer was sent.
    in_turn: bool,
    /// Requests that are answered rightly before the habit begins.
    polite: usize,
}

struct Shared {
    habit: Habit,
    answered: AtomicUsize,
    /// A request asked for a connection of its own.
    is_found_out: AtomicBool,
}

/// Starts a server with a thread for each connection, whose sockets the runtime of the test does not touch.
fn start(habit: Habit) -> (SocketAddr, Arc<Shared>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shared = Arc::new(Shared { habit, answered: AtomicUsize::new(0), is_found_out: AtomicBool::new(false) });
    let accepting = shared.clone();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let shared = accepting.clone();
            thread::spawn(move || serve(socket, &shared));
        }
    });
    (address, shared)
}

/// Serves one connection until it ends.
fn serve(mut socket: TcpStream, shared: &Shared) -> Option<()> {
    socket.set_nodelay(!shared.habit.nagle).ok()?;
    let mut buffer = Vec::new();
    loop {
        let (head, body) = read_request(&mut socket, &mut buffer)?;
        if head.starts_with("GET") {
            socket.write_all(answer(r#"{"data":[{"id":"m"}]}"#).as_bytes()).ok()?;
            continue;
        }
        if head.contains("connection: close") {
            shared.is_found_out.store(true, Ordering::Relaxed);
        }
        let question: Value = serde_json::from_str(&body).ok()?;
        socket.write_all(answer(&json!({ "for": question["user"] }).to_string()).as_bytes()).ok()?;
        if shared.answered.fetch_add(1, Ordering::Relaxed) >= shared.habit.polite {
            let (habit, mut socket) = (shared.habit, socket.try_clone().ok()?);
            let surplus = thread::spawn(move || send_surplus(habit, &mut socket));
            if shared.habit.in_turn {
                surplus.join().ok()?;
            }
        }
    }
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn send_surplus(habit: Habit, socket: &mut TcpStream) -> Option<()> {
    thread::sleep(habit.delay);
    let surplus = answer(r#"{"for":"nobody"}"#);
    let size = if habit.in_pieces { 30 } else { surplus.len() };
    surplus.as_bytes().chunks(size).try_for_each(|piece| socket.write_all(piece)).ok()
}

fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                buffer.drain(..head.len() + 4 + length);
                return Some((head.to_owned(), body[..length].to_owned()));
            }
        }
        match socket.read(&mut piece).ok()? {
            0 => return None,
            count => buffer.extend_from_slice(&piece[..count]),
        }
    }
}

/// Asks once; false if the answer is somebody else's.
async fn ask(app: &TestApp, asked: &AtomicUsize) -> bool {
    let name = format!("request {}", asked.fetch_add(1, Ordering::Relaxed));
    let response = app.post(CHAT, &json!({ "model": "m", "user": name })).await;
    response.status != 200 || response.json()["for"] == name.as_str()
}

/// Sends requests from `clients` clients until the endpoint is found out, and then some. Returns the wrong answers before and
/// after that.
async fn wrong_answers(habit: Habit, clients: usize) -> (usize, usize) {
    let app = TestApp::with(|config| {
        config.health.failures_to_offline = 100;
        config.queue.max_waiting = 1000;
    })
    .await;
    let (address, shared) = start(habit);
    let body = json!({ "name": "a", "base_url": format!("http://{address}"), "max_concurrency": clients });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    let asked = AtomicUsize::new(0);
    let before = join_all((0..clients).map(|_| async {
        let mut wrong = 0;
        while !shared.is_found_out.load(Ordering::Relaxed) {
            wrong += usize::from(!ask(&app, &asked).await);
        }
        wrong
    }));
    let before: usize = soon(&format!("{habit:?} is found out"), before).await.into_iter().sum();
    let after = join_all((0..clients).map(|_| async {
        let mut wrong = 0;
        for _ in 0..80 / clients {
            wrong += usize::from(!ask(&app, &asked).await);
        }
        wrong
    }));
    let after: usize = after.await.into_iter().sum();
    app.until_endpoint(&id, "idle", |endpoint| endpoint["in_flight"] == 0).await;
    app.finish().await;
    (before, after)
}

/// Checks every way to send a surplus answer so long after the right one. Returns the most wrong answers in one of them; all
/// came before the endpoint was found out.
async fn most_wrong(delay_ms: u64, polite: usize, clients: usize) -> usize {
    let ways = (0..8).map(|way| Habit {
        delay: Duration::from_millis(delay_ms),
        in_pieces: way & 1 > 0,
        nagle: way & 2 > 0,
        in_turn: way & 4 > 0,
        polite,
    });
    let checks = ways.map(async |habit| {
        let (before, after) = wrong_answers(habit, clients).await;
        assert_eq!(after, 0, "{before} before it was found out: {habit:?}, {clients} clients");
        before
    });
    join_all(checks).await.into_iter().max().unwrap_or(0)
}

#[actix_web::test]
async fn a_surplus_answer_reaches_one_client_at_most_and_then_nobody() {
    for (delay_ms, clients) in [(0, 1), (0, 8), (1, 1), (1, 8), (50, 1), (50, 8), (1000, 8)] {
        let wrong = most_wrong(delay_ms, 0, clients).await;
        assert!(wrong <= 1, "{wrong} wrong, {delay_ms} ms later, {clients} clients");
    }
}

#[actix_web::test]
async fn a_habit_that_begins_late_is_found_out_all_the_same() {
    for delay_ms in [0, 1, 50] {
        // Nobody can tell the first from the right one; a few may follow where the machine is busy.
        let wrong = most_wrong(delay_ms, 40, 1).await;
        assert!(wrong <= 4, "{wrong} wrong, {delay_ms} ms later");
    }
}

/// Starts a server that answers as soon as it has the head of a request, and reads the rest then.
fn start_hasty() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut piece, mut text) = ([0; 4096], String::new());
                while !text.contains("\r\n\r\n") {
                    let count = socket.read(&mut piece).ok().filter(|count| *count > 0)?;
                    text.push_str(&String::from_utf8_lossy(&piece[..count]));
                }
                let body = if text.starts_with("GET") { r#"{"data":[{"id":"m"}]}"# } else { r#"{"for":"nobody"}"# };
                socket.write_all(answer(body).as_bytes()).ok()?;
                while socket.read(&mut piece).ok()? > 0 {}
                Some(())
            });
        }
    });
    address
}

#[actix_web::test]
async fn an_answer_that_comes_before_the_end_of_its_request_is_a_failure_of_the_endpoint() {
    let (app, good) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let hasty = json!({ "name": "hasty", "base_url": format!("http://{}", start_hasty()), "capability_score": 2 });
    let id = app.post("/api/endpoints", &hasty).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    app.register_scored("good", &good, 1).await;
    let long = json!({ "model": "m", "input": "x".repeat(16 << 20) });
    let answer = app.post(CHAT, &long).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-leaseway-endpoint")),
        (200, Some("good")),
        "{}",
        answer.text()
    );
    let view = app.until_counted(&id, 1, 1).await;
    assert!(
        view["last_error"].as_str().is_some_and(|error| error.contains("before it had the whole request")),
        "{view}"
    );
    app.finish().await;
}
