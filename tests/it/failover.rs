//! A request that an endpoint fails before the first byte goes to another endpoint.

use std::time::Duration;

use leaseway::config::Config;
use serde_json::{Value, json};

use crate::support::fake_endpoint::{Received, json_answer, polite};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

pub const BUSY: &str = r#"{"error":{"message":"server busy, please try again","type":"x","param":null,"code":null}}"#;
pub const BROKEN: &str = r#"{"error":{"message":"of the endpoint","type":"x","param":null,"code":null}}"#;

async fn without_fast_probes(change: impl FnOnce(&mut Config)) -> TestApp {
    TestApp::with(|config| {
        config.health.failures_to_offline = 100;
        change(config);
    })
    .await
}

#[actix_web::test]
async fn no_more_endpoints_are_tried_than_attempts_are_allowed() {
    for (max_attempts, expected) in [(1, 1), (3, 3), (100, 4)] {
        let app = without_fast_probes(|config| config.upstream.max_attempts = max_attempts).await;
        let mut endpoints = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let endpoint = FakeEndpoint::start(&["m"]).await;
            app.register_scored(name, &endpoint, 1).await;
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
    let busy_id = app.register_scored("busy", &busy, 2).await;
    app.register_scored("good", &good, 1).await;
    busy.script(|_| json_answer(429, BUSY));
    for _ in 0..3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("good"));
    }
    assert_eq!(busy.counts().arrived, 1);
    good.script(|_| json_answer(429, BUSY));
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.error().1.as_str(), answer.header("retry-after")), ("overloaded", Some("1")), "by the estimate");
    let message = &answer.json()["error"]["message"];
    assert_eq!(message, "every endpoint that was tried for the model `m` is busy");
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
    let id = app.register_scored("first", &first, 2).await;
    app.register_scored("second", &second, 1).await;
    for status in [400, 401, 404, 422] {
        first.script(move |_| json_answer(status, BROKEN));
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, BROKEN.to_owned()));
    }
    assert_eq!(second.counts().arrived, 0);
    app.until_counted(&id, 4, 4).await;
    assert_eq!(app.get(&format!("/api/endpoints/{id}")).await.json()["last_error"], json!(null));
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
    let bad_id = app.register_scored("bad", &bad, 2).await;
    app.register_scored("good", &good, 1).await;
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
    // The slot that the failure frees goes to the waiting request. The retry cannot use it, and waits beyond the bound.
    bad.release(1);
    counted_failures(&app, &bad_id, 1).await;
    let mut comes_later = ask("comes later").await;
    assert!(comes_later.read_until("queue_full").await.starts_with("HTTP/1.1 429 "));
    // The request that was granted on the bad endpoint fails as well, and its retry stands before the first one.
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
    app.register_scored("bad", &bad, 2).await;
    app.register_scored("good", &good, 1).await;
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
    app.register_scored("bad", &bad, 2).await;
    let good_id = app.register_scored("good", &good, 1).await;
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
    let id = app.register_scored("first", &first, 2).await;
    app.register_scored("second", &second, 1).await;
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
    // A good probe does not end the skipping.
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
    let id = app.register_scored("picky", &picky, 2).await;
    app.register_scored("good", &good, 1).await;
    picky.refuse_bodies_above(1 << 20);
    let long = json!({ "model": "m", "input": "x".repeat(16 << 20) });
    let answer = app.post(CHAT, &long).await;
    // It is a matter of chance whether the answer is seen before the reset.
    assert!([413, 502].contains(&answer.status.as_u16()), "{}", answer.text());
    assert_eq!(good.counts().arrived, 0, "tried again");
    let view = app.until_endpoint(&id, "failed", |view| view["failed_requests"] == 1).await;
    assert_eq!(view["last_error"], json!(null));
    app.finish().await;
}

/// Asks two endpoints, of which the first answers 500, and returns what is said of them: their last errors.
async fn errors_after(second: fn(&Received) -> Vec<Step>) -> [Value; 2] {
    let app = without_fast_probes(|_| {}).await;
    let endpoints = [FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await];
    app.register_scored("first", &endpoints[0], 2).await;
    app.register_scored("second", &endpoints[1], 1).await;
    endpoints[0].script(|_| json_answer(500, BROKEN));
    endpoints[1].script(second);
    app.post(CHAT, &chat("m", false)).await;
    // LoadManager answers after it has told whom to blame.
    app.get("/api/load-status").await;
    let views = app.get("/api/endpoints").await.json();
    app.finish().await;
    [0, 1].map(|number| views[number]["last_error"].clone())
}

#[actix_web::test]
async fn a_server_error_is_blamed_on_its_endpoint_unless_a_second_endpoint_repeats_it() {
    let nothing = || json!(null);
    let of_first = || json!("answered 500");
    assert_eq!(errors_after(polite).await, [of_first(), nothing()], "served by the second");
    assert_eq!(errors_after(|_| json_answer(502, BROKEN)).await, [nothing(), nothing()], "the request is at fault");
    assert_eq!(
        errors_after(|_| json_answer(400, BROKEN)).await,
        [nothing(), nothing()],
        "found at fault by the second"
    );
    let [first, second] = errors_after(|_| vec![Step::Reset]).await;
    assert_eq!(first, of_first(), "nobody is left to compare with");
    assert!(second.as_str().is_some_and(|error| error.starts_with("connection lost")), "{second}");
}

#[actix_web::test]
async fn the_only_endpoint_of_a_model_is_to_blame_for_its_server_errors() {
    let app = without_fast_probes(|_| {}).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register_scored("only", &endpoint, 1).await;
    endpoint.script(|_| json_answer(500, BROKEN));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 500);
    app.until_endpoint(&id, "blamed", |view| view["last_error"] == "answered 500").await;
    app.finish().await;
}

#[actix_web::test]
async fn an_api_that_an_endpoint_does_not_serve_is_not_asked_of_it_again_until_its_next_sync() {
    let app = without_fast_probes(|_| {}).await;
    let (chat_only, second) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let id = app.register_scored("chat-only", &chat_only, 2).await;
    let second_id = app.register_scored("second", &second, 1).await;
    let refuse = |received: &Received| match received.path.as_str() {
        "/v1/embeddings" => json_answer(501, BROKEN),
        _ => polite(received),
    };
    chat_only.script(refuse);
    let question = json!({ "model": "m", "input": "x" });
    for _ in 0..3 {
        let answer = app.post("/v1/embeddings", &question).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("second")));
    }
    assert_eq!(chat_only.counts().arrived, 1, "asked once");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("chat-only"));

    second.script(refuse);
    let sync = |id: &str| format!("/api/endpoints/{id}/sync");
    for _ in 0..2 {
        let relayed = app.post("/v1/embeddings", &question).await;
        assert_eq!((relayed.status.as_u16(), relayed.text().as_str()), (501, BROKEN), "it has served this API");
    }
    assert_eq!(app.post(&sync(&second_id), &json!({})).await.status, 200);
    let relayed = app.post("/v1/embeddings", &question).await;
    assert_eq!((relayed.status.as_u16(), relayed.text().as_str()), (501, BROKEN), "what the last one said");
    let refused = app.post("/v1/embeddings", &question).await;
    let error = refused.json()["error"].clone();
    assert_eq!(
        (refused.status.as_u16(), &error["code"], &error["type"]),
        (501, &json!("api_not_supported"), &json!("server_error"))
    );
    assert_eq!(error["message"], "no endpoint with the model `m` serves /v1/embeddings");
    assert_eq!(refused.header("x-should-retry"), Some("false"));

    chat_only.script(polite);
    assert_eq!(app.post(&sync(&id), &json!({})).await.status, 200);
    let answer = app.post("/v1/embeddings", &question).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("chat-only")));
    app.finish().await;
}
