//! What an endpoint fails before the first byte goes to another.

use std::time::Duration;

use leaseway::config::Config;
use serde_json::json;

use crate::support::fake_endpoint::{DONE, LOADING, STREAM_HEAD, chunk, content, json_answer, polite};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

const BUSY: &str = r#"{"error":{"message":"server busy, please try again","type":"x","param":null,"code":null}}"#;
const BROKEN: &str = r#"{"error":{"message":"of the endpoint","type":"x","param":null,"code":null}}"#;

/// A way to fail before the first byte, with what its endpoint answers if it is the only one.
struct Fault {
    name: &'static str,
    steps: Vec<Step>,
    alone: (u16, &'static str),
}

fn faults() -> Vec<Fault> {
    let send = |text: &str| Step::Send(text.to_owned());
    let head = |rest: &str| send(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    let half = vec![send("HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\n{\"half\""), Step::Close];
    let no_answer = (502, "upstream_error");
    let fault = |name, steps, alone| Fault { name, steps, alone };
    vec![
        fault("closed before the head", vec![Step::Close], no_answer),
        fault("reset before the head", vec![Step::Reset], no_answer),
        fault("closed after the head", vec![send(STREAM_HEAD), Step::Close], no_answer),
        fault("reset after the head", vec![send(STREAM_HEAD), Step::Reset], no_answer),
        fault("half a head", vec![head("content-type: appl"), Step::Close], no_answer),
        fault("garbage instead of HTTP", vec![send("\u{0}\u{1}garbage\r\n\r\n"), Step::Close], no_answer),
        fault("an endless header", vec![head("x: "), send(&"x".repeat(4 << 20)), Step::Close], no_answer),
        fault("half an error", half, no_answer),
        fault("500", json_answer(500, BROKEN), (500, "of the endpoint")),
        fault("500 without a body", json_answer(500, ""), (500, "")),
        fault("503 loading", json_answer(503, LOADING), (503, "Loading model")),
        fault("503 busy", json_answer(503, BUSY), (429, "overloaded")),
        fault("429", json_answer(429, BUSY), (429, "overloaded")),
    ]
}

/// Registers an endpoint with a score, the highest being tried first. Returns its id.
async fn register(app: &TestApp, name: &str, endpoint: &FakeEndpoint, score: u32) -> String {
    let body = json!({ "name": name, "base_url": endpoint.url(), "capability_score": score });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    id
}

/// Checks how many requests an endpoint has had and failed, and that it holds no lease.
async fn counted(app: &TestApp, id: &str, total: u64, failed: u64) {
    let reached = |view: &serde_json::Value| {
        view["total_requests"] == total && view["failed_requests"] == failed && view["in_flight"] == 0
    };
    app.until_endpoint(id, &format!("{total} requests, {failed} failed"), reached).await;
}

async fn without_fast_probes(change: impl FnOnce(&mut Config)) -> TestApp {
    TestApp::with(|config| {
        config.health.failures_to_offline = 100;
        change(config);
    })
    .await
}

#[actix_web::test]
async fn every_fault_before_the_first_byte_is_another_endpoints_chance() {
    for Fault { name, steps, .. } in faults() {
        let app = without_fast_probes(|_| {}).await;
        let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
        let (bad_id, good_id) = (register(&app, "bad", &bad, 2).await, register(&app, "good", &good, 1).await);
        bad.script(move |_| steps.clone());
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("good")), "{name}");
        assert!(answer.text().contains("Hello"), "{name}: {}", answer.text());
        assert_eq!(answer.header("x-queue-status"), None, "{name}: it did not wait");
        assert_eq!(bad.counts().arrived, 1, "{name}: tried once");
        counted(&app, &bad_id, 1, 1).await;
        counted(&app, &good_id, 1, 0).await;
        app.finish().await;
    }
}

#[actix_web::test]
async fn where_there_is_no_other_endpoint_the_client_hears_of_the_fault() {
    for Fault { name, steps, alone: (status, words) } in faults() {
        let (app, bad) = (without_fast_probes(|_| {}).await, FakeEndpoint::start(&["m"]).await);
        let id = register(&app, "bad", &bad, 1).await;
        bad.script(move |_| steps.clone());
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text());
        assert!(answer.text().contains(words), "{name}: {}", answer.text());
        assert!(!answer.text().contains(&bad.address.to_string()), "{name}: {}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), words == "overloaded", "{name}");
        assert_eq!(bad.counts().arrived, 1, "{name}: tried once");
        counted(&app, &id, 1, 1).await;
        app.finish().await;
    }
}

#[actix_web::test]
async fn an_endpoint_that_is_gone_is_another_ones_chance() {
    let app = without_fast_probes(|_| {}).await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let bad_id = register(&app, "bad", &bad, 2).await;
    register(&app, "good", &good, 1).await;
    drop(bad);
    assert_eq!(app.post(CHAT, &chat("m", true)).await.header("x-leaseway-endpoint"), Some("good"));
    counted(&app, &bad_id, 1, 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn no_more_endpoints_are_tried_than_attempts_are_allowed() {
    for (max_attempts, expected) in [(1, 1), (3, 3), (100, 4)] {
        let app = without_fast_probes(|config| config.upstream.max_attempts = max_attempts).await;
        let mut endpoints = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let endpoint = FakeEndpoint::start(&["m"]).await;
            register(&app, name, &endpoint, 1).await;
            endpoint.script(|_| json_answer(500, BROKEN));
            endpoints.push(endpoint);
        }
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (500, BROKEN.to_owned()), "the last answer is relayed");
        let arrived: Vec<usize> = endpoints.iter().map(|endpoint| endpoint.counts().arrived).collect();
        assert_eq!(arrived.iter().sum::<usize>(), expected, "{arrived:?}");
        assert!(arrived.iter().all(|arrived| *arrived <= 1), "each at most once: {arrived:?}");
        app.finish().await;
    }
}

#[actix_web::test]
async fn a_busy_endpoint_comes_last_until_it_is_heard_of_and_the_client_learns_when_to_come_again() {
    let app = without_fast_probes(|_| {}).await;
    let (busy, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let busy_id = register(&app, "busy", &busy, 2).await;
    register(&app, "good", &good, 1).await;
    busy.script(|_| json_answer(429, BUSY));
    for _ in 0..3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("good"));
    }
    assert_eq!(busy.counts().arrived, 1);
    good.script(|_| json_answer(429, BUSY));
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.error().1.as_str(), answer.header("retry-after")), ("overloaded", Some("1")), "by the estimate");
    good.script(polite);
    busy.script(polite);
    assert_eq!(app.post(&format!("/api/endpoints/{busy_id}/sync"), &json!({})).await.status, 200);
    assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("busy"));
    app.finish().await;
}

#[actix_web::test]
async fn a_client_error_is_the_answer_and_nobody_elses_chance() {
    let app = TestApp::start().await;
    let (first, second) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let id = register(&app, "first", &first, 2).await;
    register(&app, "second", &second, 1).await;
    for status in [400, 401, 404, 422] {
        first.script(move |_| json_answer(status, BROKEN));
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, BROKEN.to_owned()));
    }
    assert_eq!(second.counts().arrived, 0);
    counted(&app, &id, 4, 4).await;
    assert_eq!(app.get(&format!("/api/endpoints/{id}")).await.json()["last_error"], json!(null));
    app.finish().await;
}

#[actix_web::test]
async fn a_first_byte_that_is_late_is_waited_for_once() {
    let app = TestApp::with(|config| config.upstream.first_byte_timeout = Duration::from_millis(300)).await;
    let (slow, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let id = register(&app, "slow", &slow, 2).await;
    register(&app, "good", &good, 1).await;
    slow.hold();
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!(answer.error(), (504, "upstream_timeout".to_owned()));
    assert_eq!((answer.header("x-should-retry"), good.counts().arrived), (Some("false"), 0));
    counted(&app, &id, 1, 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn after_the_first_byte_nothing_is_tried_again() {
    let app = without_fast_probes(|_| {}).await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    register(&app, "bad", &bad, 2).await;
    register(&app, "good", &good, 1).await;
    bad.script(|_| vec![Step::Send(STREAM_HEAD.to_owned()), Step::Send(chunk(&content("abc"))), Step::Close]);
    let text = RawClient::post(app.address, CHAT, &chat("m", true)).await.read_to_end().await;
    assert!(text.contains("abc") && text.contains("data: {\"error\":{") && !text.contains(DONE), "{text}");
    assert_eq!(good.counts().arrived, 0);
    app.finish().await;
}

#[actix_web::test]
async fn a_retry_waits_at_the_head_of_its_clients_line_whatever_the_bound() {
    let app = without_fast_probes(|config| {
        config.queue.max_waiting = 1;
        config.queue.client_header = Some("x-user".to_owned());
    })
    .await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let bad_id = register(&app, "bad", &bad, 2).await;
    register(&app, "good", &good, 1).await;
    bad.script(|_| [vec![Step::Gate], json_answer(500, BROKEN)].concat());
    good.hold();
    let mut viewer = app.viewer().await;
    let ask = |name: &'static str| {
        let body = json!({ "model": "m", "user": name });
        async move { RawClient::post_with(app.address, CHAT, "x-user: ann\r\n", &body).await }
    };
    let mut fails_first = ask("fails first").await;
    viewer.until_depth(0, 1).await;
    let mut holds = ask("holds").await;
    viewer.until_depth(0, 2).await;
    let mut waits = ask("waits").await;
    viewer.until_depth(1, 2).await;
    // The slot that the failure frees goes to the one that waits; the retry cannot use it, and waits beyond the bound.
    bad.release(1);
    viewer.until_depth(1, 2).await;
    counted_failures(&app, &bad_id, 1).await;
    let mut comes_later = ask("comes later").await;
    assert!(comes_later.read_until("queue_full").await.starts_with("HTTP/1.1 429 "));
    // The request that was granted on the bad endpoint fails, too, and stands before the first retry.
    bad.release(1);
    viewer.until_depth(2, 1).await;
    good.release(3);
    for client in [&mut fails_first, &mut holds, &mut waits] {
        assert!(client.read_until("Hello").await.starts_with("HTTP/1.1 200 "));
    }
    let served: Vec<String> = good
        .received()
        .iter()
        .map(|received| received.json()["user"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(served, ["holds", "waits", "fails first"]);
    viewer.until_depth(0, 0).await;
    app.finish().await;
}

async fn counted_failures(app: &TestApp, id: &str, failed: u64) {
    app.until_endpoint(id, "failed", |view| view["failed_requests"] == failed).await;
}

#[actix_web::test]
async fn a_retry_waits_only_what_is_left_of_the_requests_time() {
    let app = without_fast_probes(|config| config.queue.timeout = Duration::from_secs(1)).await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    register(&app, "bad", &bad, 2).await;
    register(&app, "good", &good, 1).await;
    bad.script(|_| json_answer(500, BROKEN));
    good.hold();
    let question = chat("m", false);
    let first = app.post(CHAT, &question);
    let second = async {
        good.until("the good one is taken", |counts| counts.in_flight == 1).await;
        let asked = std::time::Instant::now();
        let answer = app.post(CHAT, &question).await;
        let waited = asked.elapsed().as_secs_f64();
        good.release(1);
        assert!((0.9..1.5).contains(&waited), "it took {waited} s");
        answer
    };
    let (first, second) = futures_util::future::join(first, second).await;
    assert_eq!(first.status, 200);
    assert_eq!(second.error(), (504, "queue_timeout".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_retry_that_nobody_is_left_for_is_answered_at_once() {
    let app = without_fast_probes(|_| {}).await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    register(&app, "bad", &bad, 2).await;
    let good_id = register(&app, "good", &good, 1).await;
    bad.script(|_| json_answer(500, BROKEN));
    good.hold();
    let mut viewer = app.viewer().await;
    let holds = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    good.until("the good one is taken", |counts| counts.in_flight == 1).await;
    let mut waits = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    viewer.until_depth(1, 1).await;
    let path = format!("/api/endpoints/{good_id}");
    assert_eq!(app.send(awc::http::Method::DELETE, &path, &[], "").await.status, 204);
    let answer = waits.read_until("of the endpoint").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "what the last attempt got is relayed: {answer}");
    drop(holds);
    good.until("the other has left", |counts| counts.in_flight == 0).await;
    viewer.until_depth(0, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_endpoint_that_is_draining_finishes_its_requests_and_gets_no_more() {
    let app = TestApp::start().await;
    let (first, second) = (FakeEndpoint::start(&["m", "n"]).await, FakeEndpoint::start(&["m"]).await);
    let id = register(&app, "first", &first, 2).await;
    register(&app, "second", &second, 1).await;
    let post = async |what: &str| app.post(&format!("/api/endpoints/{id}/{what}"), &json!({})).await;
    first.hold();
    let mut running = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    first.until("it arrives", |counts| counts.in_flight == 1).await;
    let mut viewer = app.viewer().await;
    let mut waiting = RawClient::post(app.address, CHAT, &chat("n", false)).await;
    viewer.until_depth(1, 1).await;
    let answer = post("drain").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("draining")));
    let changed = viewer.until("EndpointStatusChanged", |data| data["new_status"] == "draining").await;
    assert_eq!(changed["old_status"], "online");
    assert!(waiting.read_until("no_endpoint_online").await.starts_with("HTTP/1.1 503 "));
    assert_eq!(app.post(CHAT, &chat("n", false)).await.error(), (503, "no_endpoint_online".to_owned()));
    for _ in 0..2 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("second"));
    }
    // A good probe does not end it.
    assert_eq!(post("sync").await.json()["status"], "draining");
    assert_eq!(app.get("/v1/models").await.json()["data"].as_array().map(Vec::len), Some(1));
    first.release(3);
    assert!(running.read_until("Hello").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(post("resume").await.json()["status"], "online");
    assert_eq!(app.post(CHAT, &chat("n", false)).await.header("x-leaseway-endpoint"), Some("first"));
    let unknown = app.post("/api/endpoints/00000000-0000-0000-0000-000000000000/drain", &json!({})).await;
    assert_eq!(unknown.error(), (404, "endpoint_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_long_request_that_is_not_taken_in_is_neither_tried_again_nor_blamed_on_the_endpoint() {
    let app = without_fast_probes(|_| {}).await;
    let (picky, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let id = register(&app, "picky", &picky, 2).await;
    register(&app, "good", &good, 1).await;
    picky.refuse_bodies_above(1 << 20);
    let long = json!({ "model": "m", "input": "x".repeat(16 << 20) });
    let answer = app.post(CHAT, &long).await;
    // Whether the answer is seen before the reset is a matter of chance.
    assert!([413, 502].contains(&answer.status.as_u16()), "{}", answer.text());
    assert_eq!(good.counts().arrived, 0, "tried again");
    let view = app.until_endpoint(&id, "failed", |view| view["failed_requests"] == 1).await;
    assert_eq!(view["last_error"], json!(null));
    app.finish().await;
}
