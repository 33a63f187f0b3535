//! Endpoints that send answers nobody asked for: no answer reaches the wrong client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::interval;

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
    /// How long the endpoint works on a request.
    service: Duration,
    /// How long the endpoint has no such habit.
    polite: Duration,
    /// The habit ends with the first surplus answer.
    is_single: bool,
}

impl Habit {
    /// Returns the habit of an endpoint that sends a surplus answer `delay_ms` after each right one.
    fn after(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            in_pieces: false,
            nagle: false,
            in_turn: false,
            service: Duration::ZERO,
            polite: Duration::ZERO,
            is_single: false,
        }
    }

    /// Returns the eight ways to send a surplus answer so long after the right one.
    fn ways(delay_ms: u64) -> impl Iterator<Item = Self> {
        let way = move |way| Self {
            in_pieces: way & 1 > 0,
            nagle: way & 2 > 0,
            in_turn: way & 4 > 0,
            ..Self::after(delay_ms)
        };
        (0..8).map(way)
    }
}

struct Shared {
    habit: Habit,
    started: Instant,
    surplus: AtomicUsize,
    /// A request asked for a connection of its own.
    is_caught: AtomicBool,
}

/// Starts a server with a thread for each connection, whose sockets the runtime of the test does not touch.
fn start(habit: Habit) -> (SocketAddr, Arc<Shared>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shared = Arc::new(Shared {
        habit,
        started: Instant::now(),
        surplus: AtomicUsize::new(0),
        is_caught: AtomicBool::new(false),
    });
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
            shared.is_caught.store(true, Ordering::Relaxed);
        }
        let question: Value = serde_json::from_str(&body).ok()?;
        thread::sleep(shared.habit.service);
        socket.write_all(answer(&json!({ "for": question["user"] }).to_string()).as_bytes()).ok()?;
        let is_polite = shared.started.elapsed() < shared.habit.polite;
        if !is_polite && (shared.surplus.fetch_add(1, Ordering::Relaxed) == 0 || !shared.habit.is_single) {
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

/// Asks once. Returns the status, and whether the answer belongs to the request.
async fn ask(app: &TestApp, asked: &AtomicUsize) -> (u16, bool) {
    let name = format!("request {}", asked.fetch_add(1, Ordering::Relaxed));
    let response = app.post(CHAT, &json!({ "model": "m", "user": name })).await;
    let is_right = response.status == 200 && response.json()["for"] == name.as_str();
    (response.status.as_u16(), is_right)
}

/// Registers an endpoint at this address. Returns its id once it is online.
async fn register(app: &TestApp, address: SocketAddr, slots: usize) -> String {
    let body = json!({ "name": "a", "base_url": format!("http://{address}"), "max_concurrency": slots });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    id
}

/// Sends requests from `clients` clients until the endpoint is caught, and then 80 more, all of which must be answered
/// rightly. Returns the number of wrong answers.
async fn wrong_answers(habit: Habit, clients: usize) -> usize {
    let app = TestApp::with(|config| {
        config.health.failures_to_offline = 100;
        config.queue.max_waiting = 1000;
    })
    .await;
    let (address, shared) = start(habit);
    let id = register(&app, address, clients).await;
    let asked = AtomicUsize::new(0);
    let before = join_all((0..clients).map(|_| async {
        let mut wrong = 0;
        while !shared.is_caught.load(Ordering::Relaxed) {
            let (status, is_right) = ask(&app, &asked).await;
            wrong += usize::from(status == 200 && !is_right);
        }
        wrong
    }));
    let wrong: usize = soon(&format!("{habit:?} is caught"), before).await.into_iter().sum();
    let after = join_all((0..clients).map(|_| async {
        for _ in 0..80 / clients {
            let answer = ask(&app, &asked).await;
            assert_eq!(answer, (200, true), "{wrong} wrong before it was caught: {habit:?}, {clients} clients");
        }
    }));
    after.await;
    app.until_endpoint(&id, "idle", |endpoint| endpoint["in_flight"] == 0).await;
    app.finish().await;
    wrong
}

#[actix_web::test]
async fn a_surplus_answer_reaches_one_client_at_most_and_then_nobody() {
    for (delay_ms, clients) in [(0, 1), (0, 8), (1, 1), (1, 8), (50, 1), (50, 8), (1000, 8)] {
        let wrong = join_all(Habit::ways(delay_ms).map(|habit| wrong_answers(habit, clients))).await;
        assert!(wrong.iter().all(|wrong| *wrong <= 1), "{wrong:?} wrong, {delay_ms} ms later, {clients} clients");
    }
}

/// How long an endpoint must be polite until its connections are kept.
const PROVEN: Duration = Duration::from_millis(2500);

#[actix_web::test]
async fn a_habit_that_begins_late_reaches_two_clients_of_each_connection_at_most() {
    const CLIENTS: usize = 4;
    for delay_ms in [0, 50] {
        let late = Habit::ways(delay_ms).map(|habit| Habit { polite: PROVEN, ..habit });
        let wrong = join_all(late.map(|habit| wrong_answers(habit, CLIENTS))).await;
        assert!(wrong.iter().all(|wrong| *wrong <= 2 * CLIENTS), "{wrong:?} wrong, {delay_ms} ms later");
    }
}

#[actix_web::test]
async fn a_single_surplus_answer_shifts_the_answers_of_a_connection_for_a_second_at_most() {
    let service = Duration::from_millis(20);
    let habit = Habit { service, polite: PROVEN, is_single: true, ..Habit::after(50) };
    let wrong = wrong_answers(habit, 8).await;
    let in_a_second = Duration::from_secs(1).div_duration_f64(service) as usize;
    assert!(wrong <= in_a_second + in_a_second / 2, "{wrong} wrong");
}

/// Starts a server that serves one connection at a time and keeps each connection until its client closes it.
fn start_serial() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shared = Shared {
        habit: Habit { polite: Duration::MAX, ..Habit::after(0) },
        started: Instant::now(),
        surplus: AtomicUsize::new(0),
        is_caught: AtomicBool::new(false),
    };
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            serve(socket, &shared);
        }
    });
    address
}

#[actix_web::test]
async fn an_endpoint_that_serves_one_connection_at_a_time_is_not_kept_waiting() {
    let app = TestApp::start().await;
    register(&app, start_serial(), 1).await;
    let (asked, started) = (AtomicUsize::new(0), Instant::now());
    for _ in 0..10 {
        assert_eq!(ask(&app, &asked).await, (200, true));
    }
    // Ten watched connections would take 20 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    app.finish().await;
}

/// Starts a server that ends idle connections with a 408. Returns how many it has ended so, and how many its clients have ended.
fn start_impatient() -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let ended = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = ended.clone();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let ended = counted.clone();
            thread::spawn(move || {
                socket.set_read_timeout(Some(PROVEN)).ok()?;
                let mut buffer = Vec::new();
                while let Some((head, body)) = read_request(&mut socket, &mut buffer) {
                    assert!(head.starts_with("GET") || !head.contains("connection: close"), "it was caught");
                    let question: Value = serde_json::from_str(&body).unwrap_or_default();
                    let text = json!({ "data": [{ "id": "m" }], "for": question["user"] }).to_string();
                    socket.write_all(answer(&text).as_bytes()).ok()?;
                }
                socket.set_nonblocking(true).ok()?;
                let is_over = matches!(socket.peek(&mut [0]), Ok(0));
                if !is_over {
                    socket.write_all(b"HTTP/1.1 408 Request Time-out\r\nconnection: close\r\n\r\n").ok()?;
                }
                ended[usize::from(is_over)].fetch_add(1, Ordering::Relaxed);
                Some(())
            });
        }
    });
    (address, ended)
}

#[actix_web::test]
async fn a_connection_that_an_endpoint_ends_for_want_of_requests_says_nothing() {
    let app = TestApp::start().await;
    let (address, ended) = start_impatient();
    register(&app, address, 1).await;
    let asked = AtomicUsize::new(0);
    let [by_endpoint, by_client] = &*ended;
    let all = || by_endpoint.load(Ordering::Relaxed) + by_client.load(Ordering::Relaxed);
    // The first connection is watched and ended by Leaseway, unless the machine is so busy that the endpoint is faster.
    while by_endpoint.load(Ordering::Relaxed) == 0 {
        let before = all();
        assert_eq!(ask(&app, &asked).await, (200, true));
        let reached = async {
            let mut ticks = interval(Duration::from_millis(10));
            while all() == before {
                ticks.tick().await;
            }
        };
        soon("the end of a connection", reached).await;
    }
    for _ in 0..3 {
        assert_eq!(ask(&app, &asked).await, (200, true));
    }
    app.finish().await;
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
