//! Leaseway in this process, on a free port, with a database of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use actix_codec::Framed;
use actix_web::http::{Method, StatusCode};
use awc::ws::{Codec, Frame};
use bytes::Bytes;
use futures_util::StreamExt;
use leaseway::app::{self, Leaseway};
use leaseway::config::{self, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificates::{Authority, Trust};
use super::{FakeEndpoint, PATIENCE, soon};

/// The longest frame that a viewer accepts, in bytes.
const FRAME_MAX: usize = 16 * 1024 * 1024;

/// A running Leaseway. [`TestApp::finish`] must be called.
pub struct TestApp {
    pub address: SocketAddr,
    /// Is sent with every request that does not say otherwise.
    pub key: Option<String>,
    leaseway: Option<Leaseway>,
    folder: TempDir,
    /// What a client needs; `None` if Leaseway speaks plain HTTP.
    trust: Option<Trust>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// Returns status and code of an error, and checks that it has the form that OpenAI SDKs read.
    pub fn error(&self) -> (u16, String) {
        let json = self.json();
        let error = &json["error"];
        for field in ["message", "type", "code"] {
            assert!(error[field].is_string(), "no {field} in {json}");
        }
        assert!(error.as_object().is_some_and(|error| error.contains_key("param")), "no param in {json}");
        (self.status.as_u16(), error["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl TestApp {
    /// Starts Leaseway with the default settings.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts Leaseway with changed settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), change).await
    }

    /// Starts Leaseway over TLS, with changed settings.
    pub async fn with_tls(authority: &Authority, change: impl FnOnce(&mut Config)) -> Self {
        let mut app = Self::with(|config| {
            config.tls = Some(authority.issue("server").files);
            change(config);
        })
        .await;
        app.trust = Some(authority.trust());
        app
    }

    /// Starts Leaseway with the database in this folder.
    pub async fn start_in(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let (mut config, _) = config::load(None, &[]).expect("the defaults");
        config.server.bind = "127.0.0.1:0".parse().expect("an address");
        config.database.url = format!("sqlite://{}", folder.path().join("test.db").display());
        // A busy machine must not make a healthy endpoint look slow.
        config.health.timeout = PATIENCE;
        change(&mut config);
        let leaseway = app::start(config).expect("it starts");
        Self { address: leaseway.address, key: None, leaseway: Some(leaseway), folder, trust: None }
    }

    /// Returns the path of `test.db`.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Registers an endpoint and waits until it is online. Returns its id.
    pub async fn register(&self, name: &str, endpoint: &FakeEndpoint, slots: u32) -> String {
        self.register_with(json!({ "name": name, "base_url": endpoint.url(), "max_concurrency": slots })).await
    }

    /// Registers an endpoint with one slot and a score; the highest score is tried first. Returns its id.
    pub async fn register_scored(&self, name: &str, endpoint: &FakeEndpoint, score: u32) -> String {
        self.register_with(json!({ "name": name, "base_url": endpoint.url(), "capability_score": score })).await
    }

    async fn register_with(&self, body: Value) -> String {
        let answer = self.post("/api/endpoints", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        self.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
        id
    }

    /// Reads an endpoint until `is_so` holds for it.
    pub async fn until_endpoint(&self, id: &str, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        self.until(&format!("/api/endpoints/{id}"), what, reached).await
    }

    /// Waits until an endpoint has had `total` requests, has failed `failed` of them, and holds no lease. Returns its JSON.
    pub async fn until_counted(&self, id: &str, total: u64, failed: u64) -> Value {
        let reached = |view: &Value| {
            view["total_requests"] == total && view["failed_requests"] == failed && view["in_flight"] == 0
        };
        self.until_endpoint(id, &format!("{total} requests, {failed} failed"), reached).await
    }

    /// Reads a path until `is_so` holds for its JSON.
    pub async fn until(&self, path: &str, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let page = self.get(path).await.json();
                if reached(&page) {
                    return page;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(what, asking).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let key = self.key.as_deref().map(|key| ("x-api-key", key));
        self.send_as(method, path, &[headers, key.as_slice()].concat(), body).await
    }

    /// Sends a request with no other key than one in `headers`.
    pub async fn send_as(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client().request(method, self.url("http", path));
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let mut response = soon("an answer", request.send_body(body.to_owned())).await.expect("an answer");
        let body = soon("the rest of an answer", response.body().limit(usize::MAX)).await.expect("a body");
        let headers = response.headers().iter();
        let text = |value: &awc::http::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Answer {
            status: response.status(),
            headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
            body,
        }
    }

    /// Returns the address of a path; `scheme` is the scheme without TLS.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let secure = if self.trust.is_some() { "s" } else { "" };
        format!("{scheme}{secure}://{}{path}", self.address)
    }

    fn client(&self) -> awc::Client {
        let builder = awc::Client::builder().disable_timeout().disable_redirects();
        match &self.trust {
            Some(trust) => builder.connector(awc::Connector::new().rustls_0_23(trust.0.clone())).finish(),
            None => builder.finish(),
        }
    }

    /// Opens a viewer's session and returns after its snapshot.
    pub async fn viewer(&self) -> Viewer {
        let mut viewer = self.viewer_from_the_start().await;
        assert_eq!(viewer.next().await.expect("a snapshot")["type"], "Snapshot");
        viewer
    }

    /// Opens a viewer's session.
    pub async fn viewer_from_the_start(&self) -> Viewer {
        let opened = self.client().ws(self.url("ws", "/ws/dashboard"));
        let (_, socket) = opened.max_frame_size(FRAME_MAX).connect().await.expect("a session");
        let mut viewer = Viewer(socket);
        assert_eq!(viewer.next().await, Some(json!({ "type": "connected" })));
        viewer
    }

    /// Stops Leaseway, after checking that no lease is held and no request waits.
    pub async fn finish(self) {
        self.restartable().await;
    }

    /// Stops as [`TestApp::finish`] does and returns the folder with the database.
    pub async fn restartable(mut self) -> TempDir {
        for endpoint in self.get("/api/endpoints").await.json().as_array().expect("a list") {
            assert_eq!(endpoint["in_flight"], 0, "a lease is held: {endpoint}");
        }
        if let Some(leaseway) = self.leaseway.take() {
            soon("the stop", leaseway.stop(Duration::ZERO)).await;
        }
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        assert!(self.leaseway.is_none() || std::thread::panicking(), "finish() was not called");
    }
}

/// A viewer's session.
pub struct Viewer(Framed<awc::BoxedSocket, Codec>);

impl Viewer {
    /// Returns the next event, `None` after the session has closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match soon("an event", self.0.next()).await? {
                Ok(Frame::Text(text)) => return Some(serde_json::from_slice(&text).expect("JSON")),
                Ok(Frame::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Waits for an event of this type for whose data `is_so` holds.
    pub async fn until(&mut self, kind: &str, reached: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("closed before {kind}"));
            if event["type"] == kind && reached(&event["data"]) {
                return event["data"].clone();
            }
        }
    }

    /// Waits for the event that says `waiting` requests wait and `active` leases are held.
    pub async fn until_depth(&mut self, waiting: usize, active: usize) {
        self.until("QueueDepth", |data| data["waiting"] == waiting && data["active"] == active).await;
    }
}
