//! Everything an endpoint can do wrong: what the client gets, who serves it, what the operator sees.

use std::time::Duration;

use actix_web::http::Method;
use serde_json::{Value, json};

use super::failover::{BROKEN, BUSY};
use crate::support::fake_endpoint::{DONE, LOADING, STREAM_HEAD, chunk, content, json_answer};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

/// Something done wrong before the first byte of an answer.
struct Fault {
    name: &'static str,
    steps: Vec<Step>,
    /// The client's answer if there is no other endpoint.
    alone: (u16, &'static str),
    /// The endpoint's status afterwards; `online` if its probes go well all the same.
    status: &'static str,
    is_blamed: bool,
}

impl Fault {
    fn inject(&self, endpoint: &FakeEndpoint) {
        let steps = self.steps.clone();
        match self.status {
            "online" => endpoint.script(move |_| steps.clone()),
            _ => endpoint.do_always(&steps),
        }
    }

    /// Checks what the operator sees once the endpoint has failed one request.
    async fn seen(&self, app: &TestApp, id: &str) {
        let name = self.name;
        app.until_counted(id, 1, 1).await;
        let reached = |view: &Value| view["status"] == self.status && view["last_error"].is_string() == self.is_blamed;
        app.until_endpoint(id, &format!("{name}: {}, blamed: {}", self.status, self.is_blamed), reached).await;
    }
}

fn send(text: &str) -> Step {
    Step::Send(text.to_owned())
}

fn faults() -> Vec<Fault> {
    let head = |rest: &str| send(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    let half = vec![send("HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\n{\"half\""), Step::Close];
    let stalled = vec![send("HTTP/1.1 503 X\r\ncontent-length: 100\r\n\r\n{\"half\""), Step::Gate];
    let endless = vec![head("x: "), send(&"x".repeat(4 << 20)), Step::Close];
    let no_answer = (502, "upstream_error");
    let (broken, busy) = ((500, "of the endpoint"), (429, "overloaded"));
    let fault = |name, steps, alone, status| Fault { name, steps, alone, status, is_blamed: true };
    let blameless = |name, steps, alone, status| Fault { name, steps, alone, status, is_blamed: false };
    vec![
        fault("closed before the head", vec![Step::Close], no_answer, "offline"),
        fault("reset before the head", vec![Step::Reset], no_answer, "offline"),
        fault("closed after the head", vec![send(STREAM_HEAD), Step::Close], no_answer, "offline"),
        fault("reset after the head", vec![send(STREAM_HEAD), Step::Reset], no_answer, "offline"),
        fault("half a head", vec![head("content-type: appl"), Step::Close], no_answer, "offline"),
        fault("garbage instead of HTTP", vec![send("\u{0}\u{1}garbage\r\n\r\n"), Step::Close], no_answer, "error"),
        fault("an endless header", endless, no_answer, "error"),
        fault("half an error", half, no_answer, "offline"),
        fault("an error that stops coming", stalled, no_answer, "online"),
        fault("500", json_answer(500, BROKEN), broken, "online"),
        fault("500 to everything", json_answer(500, BROKEN), broken, "error"),
        fault("500 without a body", json_answer(500, ""), (500, ""), "online"),
        blameless("503 loading", json_answer(503, LOADING), (503, "Loading model"), "loading"),
        fault("503 busy", json_answer(503, BUSY), busy, "online"),
        blameless("429", json_answer(429, BUSY), busy, "online"),
    ]
}

/// Starts an app that does not wait long and takes an endpoint offline at the first failed probe.
async fn impatient() -> TestApp {
    TestApp::with(|config| {
        config.upstream.first_byte_timeout = Duration::from_secs(1);
        config.upstream.idle_timeout = Duration::from_secs(1);
        config.health.timeout = Duration::from_secs(1);
        config.health.failures_to_offline = 1;
    })
    .await
}

#[actix_web::test]
async fn every_fault_before_the_first_byte_is_another_endpoints_chance() {
    for fault in faults() {
        let (app, name) = (impatient().await, fault.name);
        let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
        let bad_id = app.register_scored("bad", &bad, 2).await;
        let good_id = app.register_scored("good", &good, 1).await;
        fault.inject(&bad);
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("good")), "{name}");
        assert!(answer.text().contains("Hello"), "{name}: {}", answer.text());
        assert_eq!(answer.header("x-queue-status"), None, "{name}: it did not wait");
        assert_eq!(bad.counts().arrived, 1, "{name}: tried once");
        fault.seen(&app, &bad_id).await;
        app.until_counted(&good_id, 1, 0).await;
        app.finish().await;
    }
}

#[actix_web::test]
async fn where_there_is_no_other_endpoint_the_client_hears_of_the_fault() {
    for fault in faults() {
        let (app, bad) = (impatient().await, FakeEndpoint::start(&["m"]).await);
        let id = app.register_scored("bad", &bad, 1).await;
        fault.inject(&bad);
        let answer = app.post(CHAT, &chat("m", false)).await;
        let (name, (status, words)) = (fault.name, fault.alone);
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text());
        assert!(answer.text().contains(words), "{name}: {}", answer.text());
        assert!(!answer.text().contains(&bad.address.to_string()), "{name}: {}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), words == "overloaded", "{name}");
        assert_eq!(bad.counts().arrived, 1, "{name}: tried once");
        fault.seen(&app, &id).await;
        app.finish().await;
    }
}

#[actix_web::test]
async fn an_endpoint_that_is_gone_is_another_ones_chance_and_soon_offline() {
    let app = TestApp::start().await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let bad_id = app.register_scored("bad", &bad, 2).await;
    app.register_scored("good", &good, 1).await;
    drop(bad);
    assert_eq!(app.post(CHAT, &chat("m", true)).await.header("x-leaseway-endpoint"), Some("good"));
    app.until_counted(&bad_id, 1, 1).await;
    // This happens long before the interval makes the next probe due.
    app.until_endpoint(&bad_id, "offline", |view| view["status"] == "offline").await;
    app.finish().await;
}

#[actix_web::test]
async fn an_endpoint_whose_name_is_unknown_is_offline_and_no_ones_choice() {
    let app = impatient().await;
    let (moved, good) = (FakeEndpoint::start(&["m", "n"]).await, FakeEndpoint::start(&["m"]).await);
    let id = app.register_scored("moved", &moved, 2).await;
    app.register_scored("good", &good, 1).await;
    let change = json!({ "base_url": "http://no-such-host.invalid:8000" }).to_string();
    let headers = [("content-type", "application/json")];
    assert_eq!(app.send(Method::PUT, &format!("/api/endpoints/{id}"), &headers, &change).await.status, 200);
    let view = app.until_endpoint(&id, "offline", |view| view["status"] == "offline").await;
    assert!(view["last_error"].is_string(), "{view}");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("good"));
    let answer = app.post(CHAT, &chat("n", false)).await;
    assert_eq!(answer.error(), (503, "no_endpoint_online".to_owned()));
    assert!(!answer.text().contains("invalid:"), "{}", answer.text());
    app.until_counted(&id, 0, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_first_byte_that_does_not_come_is_waited_for_once() {
    for (name, steps) in [("no head", vec![Step::Gate]), ("no body", vec![send(STREAM_HEAD), Step::Gate])] {
        for status in ["online", "offline"] {
            let app = impatient().await;
            let (slow, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
            let id = app.register_scored("slow", &slow, 2).await;
            app.register_scored("good", &good, 1).await;
            let fault = Fault { name, steps: steps.clone(), alone: (504, ""), status, is_blamed: true };
            fault.inject(&slow);
            let answer = app.post(CHAT, &chat("m", true)).await;
            assert_eq!(answer.error(), (504, "upstream_timeout".to_owned()), "{name}");
            assert_eq!((answer.header("x-should-retry"), good.counts().arrived), (Some("false"), 0), "{name}");
            slow.until("the connection is closed", |counts| counts.left == 1 && counts.in_flight == 0).await;
            fault.seen(&app, &id).await;
            app.finish().await;
        }
    }
}

#[actix_web::test]
async fn an_answer_that_breaks_off_cannot_pass_as_whole_and_is_not_tried_again() {
    let event = || Step::Send(chunk(&content("came")));
    let half = || send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"came\":");
    let faults = [
        ("closed in mid-stream", true, vec![send(STREAM_HEAD), event(), Step::Close]),
        ("a stream that is silent", true, vec![send(STREAM_HEAD), event(), Step::Gate]),
        ("half an event", true, vec![send(STREAM_HEAD), event(), send("30\r\ndata: {\"cho"), Step::Close]),
        ("garbage in mid-stream", true, vec![send(STREAM_HEAD), event(), send("no chunk\r\n"), Step::Gate]),
        ("half a body", false, vec![half(), Step::Close]),
        ("a body that stops coming", false, vec![half(), Step::Gate]),
        ("a length that is too long", false, vec![half(), send("1}"), Step::Close]),
    ];
    for (name, is_stream, steps) in faults {
        let app = impatient().await;
        let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
        let id = app.register_scored("bad", &bad, 2).await;
        app.register_scored("good", &good, 1).await;
        let fault = Fault { name, steps, alone: (200, "came"), status: "online", is_blamed: true };
        fault.inject(&bad);
        let text = RawClient::post(app.address, CHAT, &chat("m", is_stream)).await.read_to_end().await;
        assert!(text.contains("x-leaseway-endpoint: bad") && text.contains("came"), "{name}: {text}");
        let is_told =
            text.contains("\n\ndata: {\"error\":{") && !text.contains(DONE) && !text.ends_with("\r\n0\r\n\r\n");
        let is_short =
            text.contains("content-length: 100") && text.split("\r\n\r\n").nth(1).is_some_and(|body| body.len() < 100);
        assert_eq!((is_told, is_short), (is_stream, !is_stream), "{name}: {text}");
        fault.seen(&app, &id).await;
        bad.until("the connection is closed", |counts| counts.in_flight == 0).await;
        assert_eq!(good.counts().arrived, 0, "{name}: tried again");
        app.finish().await;
    }
}
