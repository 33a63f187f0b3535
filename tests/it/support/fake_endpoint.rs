//! An inference server over raw sockets that does what the test tells it, step by step.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::soon;

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    Send(String),
    /// Waits until the test calls [`FakeEndpoint::release`].
    Gate,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// A request as it arrived at the endpoint.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

type Script = Arc<dyn Fn(&Received) -> Vec<Step> + Send + Sync>;

/// How many inference requests the endpoint has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub in_flight: usize,
    pub most_in_flight: usize,
    pub arrived: usize,
    /// Requests whose peer left before the end of the answer.
    pub left: usize,
}

struct Shared {
    script: Mutex<Script>,
    /// Path, status and JSON of each answer to a `GET`.
    pages: Mutex<Vec<(String, u16, String)>>,
    /// Paths whose pages are held back.
    held_pages: watch::Sender<HashSet<String>>,
    /// How often each page was asked for.
    pages_asked: watch::Sender<HashMap<String, usize>>,
    /// The steps that every `GET` gets in place of its answer.
    in_place_of_pages: Mutex<Option<Vec<Step>>>,
    received: Mutex<Vec<Received>>,
    /// The bodies of requests that were answered to the last step.
    completed: Mutex<Vec<String>>,
    gate: Semaphore,
    /// The longest body that is read to its end.
    body_max: AtomicUsize,
    counts: watch::Sender<Counts>,
}

/// A server on a free port of the loopback interface. Dropping it stops it.
pub struct FakeEndpoint {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeEndpoint {
    /// Starts a server that lists `models` and answers every request at once.
    pub async fn start(models: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), models).await
    }

    /// Starts a server at this address, as a restart would.
    pub async fn start_at(address: SocketAddr, models: &[&str]) -> Self {
        let listener = listen(address);
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(polite)),
            pages: Mutex::new(vec![("/v1/models".to_owned(), 200, model_list(models))]),
            held_pages: watch::Sender::default(),
            pages_asked: watch::Sender::default(),
            in_place_of_pages: Mutex::default(),
            received: Mutex::default(),
            completed: Mutex::default(),
            gate: Semaphore::new(0),
            body_max: AtomicUsize::new(usize::MAX),
            counts: watch::Sender::default(),
        });
        let accepting = actix_web::rt::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// Closes the port and every connection, even in the middle of an answer.
    pub async fn kill(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    /// Listens again on the same port after a [`FakeEndpoint::kill`].
    pub fn revive(&mut self) {
        self.accepting = actix_web::rt::spawn(accept(listen(self.address), self.shared.clone()));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on answers inference requests by this script.
    pub fn script(&self, script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no panic") = Arc::new(script);
    }

    /// From now on holds every inference request at a gate, then answers politely.
    pub fn hold(&self) {
        self.script(|received| [vec![Step::Gate], polite(received)].concat());
    }

    /// From now on answers `GET path` with this JSON.
    pub fn page(&self, path: &str, json: &str) {
        self.page_with(path, 200, json);
    }

    /// From now on answers `GET path` with this status and JSON.
    pub fn page_with(&self, path: &str, status: u16, json: &str) {
        let mut pages = self.shared.pages.lock().expect("no panic");
        pages.retain(|(known, ..)| known != path);
        pages.push((path.to_owned(), status, json.to_owned()));
    }

    /// From now on holds back the answer to `GET path` until [`FakeEndpoint::let_page`].
    pub fn hold_page(&self, path: &str) {
        self.shared.held_pages.send_modify(|held| {
            held.insert(path.to_owned());
        });
    }

    /// Answers `GET path` again, and every such request that was held back.
    pub fn let_page(&self, path: &str) {
        self.shared.held_pages.send_modify(|held| {
            held.remove(path);
        });
    }

    /// Returns how often `GET path` was asked for.
    pub fn page_asked(&self, path: &str) -> usize {
        self.shared.pages_asked.borrow().get(path).copied().unwrap_or(0)
    }

    /// Waits until `GET path` was asked for `count` times.
    pub async fn until_page_asked(&self, path: &str, count: usize) {
        let mut asked = self.shared.pages_asked.subscribe();
        let reached = asked.wait_for(|asked| asked.get(path).is_some_and(|asked| *asked >= count));
        soon(&format!("GET {path} for the {count}th time"), reached).await.expect("the fake lives");
    }

    /// From now on answers everything with these steps; probes wait at gates, too.
    pub fn do_always(&self, steps: &[Step]) {
        let steps = steps.to_vec();
        *self.shared.in_place_of_pages.lock().expect("no panic") = Some(steps.clone());
        self.script(move |_| steps.clone());
    }

    /// From now on lists these models.
    pub fn list_models(&self, models: &[&str]) {
        self.page("/v1/models", &model_list(models));
    }

    /// From now on answers 413 to a longer body and closes the connection without reading it.
    pub fn refuse_bodies_above(&self, bytes: usize) {
        self.shared.body_max.store(bytes, Ordering::Relaxed);
    }

    /// Lets `count` requests or steps pass the gate.
    pub fn release(&self, count: usize) {
        self.shared.gate.add_permits(count);
    }

    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `is_so` holds for the counts.
    pub async fn until(&self, what: &str, reached: impl Fn(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        soon(what, counts.wait_for(|counts| reached(counts))).await.expect("the fake lives");
    }

    /// Returns the bodies of the inference requests that were answered to the last step.
    pub fn completed(&self) -> Vec<String> {
        self.shared.completed.lock().expect("no panic").clone()
    }

    /// Returns the inference requests that have arrived.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }
}

impl Drop for FakeEndpoint {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn model_list(models: &[&str]) -> String {
    let data: Vec<Value> = models.iter().map(|id| json!({ "id": id, "object": "model", "owned_by": "fake" })).collect();
    json!({ "object": "list", "data": data }).to_string()
}

/// Answers as a good engine does: with a stream if the request asks for one, with usage if the request asks for it.
pub fn polite(received: &Received) -> Vec<Step> {
    let question = received.json();
    if question["stream"] != json!(true) {
        return json_answer(200, WHOLE);
    }
    let usage = question["stream_options"]["include_usage"] == json!(true);
    let mut events = vec![content("Hel"), content("lo"), FINISH.to_owned()];
    events.extend(usage.then(|| USAGE.to_owned()));
    events.push(DONE.to_owned());
    stream_answer(&events)
}

pub const WHOLE: &str = r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":7,"total_tokens":10}}"#;
pub const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
pub const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\n";
pub const DONE: &str = "data: [DONE]\n\n";

pub fn content(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n")
}

/// Returns an answer with a length.
pub fn json_answer(status: u16, body: &str) -> Vec<Step> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    vec![Step::Send(head + body)]
}

/// The answer of llama.cpp while it loads its model.
pub const LOADING: &str = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;

pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Returns a stream, one chunk per event.
pub fn stream_answer(events: &[String]) -> Vec<Step> {
    let mut steps = vec![Step::Send(STREAM_HEAD.to_owned())];
    steps.extend(events.iter().map(|event| Step::Send(chunk(event))));
    steps.push(Step::Send(chunk("")));
    steps
}

/// Returns one chunk of a chunked body; an empty chunk ends the body.
pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(address).expect("a free port");
    socket.listen(1024).expect("a listener")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(serve(socket, shared.clone()));
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    socket.set_nodelay(true).expect("an option");
    let (mut reader, mut writer) = socket.into_split();
    let mut buffer = Vec::new();
    while let Some(received) = read_request(&mut reader, &mut writer, &mut buffer, &shared).await {
        let alive = match received.method.as_str() {
            "GET" => answer_page(&received, &shared, &mut writer).await,
            _ => answer_inference(received, &shared, &mut reader, &mut writer).await,
        };
        if !alive {
            return;
        }
    }
}

async fn read_request(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    buffer: &mut Vec<u8>,
    shared: &Shared,
) -> Option<Received> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if reader.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut request_line = lines.next()?.split(' ');
    let (method, path) = (request_line.next()?.to_owned(), request_line.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().expect("a length"));
    if length > shared.body_max.load(Ordering::Relaxed) {
        let _ = writer.write_all(b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        return None;
    }
    while buffer.len() < head_end + length {
        if reader.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&buffer[head_end..head_end + length]).into_owned();
    buffer.drain(..head_end + length);
    Some(Received { method, path, headers, body })
}

async fn answer_page(received: &Received, shared: &Shared, writer: &mut OwnedWriteHalf) -> bool {
    shared.pages_asked.send_modify(|asked| *asked.entry(received.path.clone()).or_default() += 1);
    let mut held = shared.held_pages.subscribe();
    held.wait_for(|held| !held.contains(&received.path)).await.expect("the fake lives");
    let in_place = shared.in_place_of_pages.lock().expect("no panic").clone();
    let pages = shared.pages.lock().expect("no panic").clone();
    let page = pages.iter().find(|(path, ..)| *path == received.path);
    let steps = match (in_place, page) {
        (Some(steps), _) => steps,
        (None, Some((_, status, json))) => json_answer(*status, json),
        (None, None) => json_answer(404, "{}"),
    };
    for step in steps {
        if let Step::Gate = step {
            std::future::pending().await
        }
        if !act(step, writer).await {
            return false;
        }
    }
    true
}

/// Does one step other than a gate. Returns false if the connection is over.
async fn act(step: Step, writer: &mut OwnedWriteHalf) -> bool {
    match step {
        Step::Send(text) => writer.write_all(text.as_bytes()).await.is_ok(),
        Step::Gate => true,
        Step::Close => false,
        Step::Reset => {
            writer.as_ref().set_zero_linger().expect("an option");
            false
        }
    }
}

/// Counts an inference request from its arrival to its end.
struct InFlight<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl InFlight<'_> {
    fn end(&mut self) {
        self.ended = true;
        self.shared.counts.send_modify(|counts| counts.in_flight -= 1);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.counts.send_modify(|counts| {
                counts.in_flight -= 1;
                counts.left += 1;
            });
        }
    }
}

async fn answer_inference(
    received: Received,
    shared: &Shared,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> bool {
    let script = shared.script.lock().expect("no panic").clone();
    let (steps, body) = (script(&received), received.body.clone());
    shared.received.lock().expect("no panic").push(received);
    shared.counts.send_modify(|counts| {
        counts.arrived += 1;
        counts.in_flight += 1;
        counts.most_in_flight = counts.most_in_flight.max(counts.in_flight);
    });
    let mut in_flight = InFlight { shared, ended: false };
    let last = steps.len().saturating_sub(1);
    for (number, step) in steps.into_iter().enumerate() {
        if let Step::Gate = step
            && !pass_gate(shared, reader).await
        {
            return false;
        }
        // The request is over before the peer can have read the last byte.
        if number == last {
            in_flight.end();
        }
        if !act(step, writer).await {
            return false;
        }
    }
    shared.completed.lock().expect("no panic").push(body);
    true
}

/// Waits at the gate. Returns false if the peer leaves meanwhile.
async fn pass_gate(shared: &Shared, reader: &mut OwnedReadHalf) -> bool {
    let mut byte = [0];
    tokio::select! {
        permit = shared.gate.acquire() => {
            permit.expect("never closed").forget();
            true
        }
        _ = reader.read(&mut byte) => false,
    }
}
