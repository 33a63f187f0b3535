//! Slots, the line, and admission to it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::test_app::Answer;
use crate::support::{FakeEndpoint, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

#[actix_web::test]
async fn a_hundred_arrivals_on_four_times_four_slots_give_sixteen_in_flight_and_eighty_four_waiting() {
    let app = TestApp::with(|config| config.queue.max_waiting = 1000).await;
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let endpoint = FakeEndpoint::start(&["m"]).await;
        app.register(name, &endpoint, 4).await;
        endpoint.hold();
        endpoints.push(endpoint);
    }
    let mut viewer = app.viewer().await;
    let question = chat("m", false);
    let requests = join_all((0..100).map(|_| app.post(CHAT, &question)));
    let watch = async {
        viewer.until_depth(84, 16).await;
        for endpoint in &endpoints {
            endpoint.until("four in flight", |counts| counts.in_flight == 4).await;
            endpoint.release(100);
        }
    };
    let (answers, ()) = soon("the answers", futures_util::future::join(requests, watch)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    for endpoint in &endpoints {
        assert_eq!(endpoint.counts().most_in_flight, 4, "never more than its slots");
    }
    app.finish().await;
}

#[actix_web::test]
async fn idle_endpoints_take_turns() {
    let app = TestApp::start().await;
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c"] {
        let endpoint = FakeEndpoint::start(&["m"]).await;
        app.register(name, &endpoint, 1).await;
        endpoints.push(endpoint);
    }
    for _ in 0..9 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    let arrived: Vec<usize> = endpoints.iter().map(|endpoint| endpoint.counts().arrived).collect();
    assert_eq!(arrived, [3, 3, 3]);
    app.finish().await;
}

#[actix_web::test]
async fn an_idle_endpoint_is_used_while_another_is_busy() {
    let (app, busy, idle) =
        (TestApp::start().await, FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let busy_id = app.register("busy", &busy, 1).await;
    busy.hold();
    let question = chat("m", false);
    let first = app.post(CHAT, &question);
    let rest = async {
        busy.until("the first arrives", |counts| counts.in_flight == 1).await;
        app.register("idle", &idle, 1).await;
        for _ in 0..3 {
            assert_eq!(app.post(CHAT, &question).await.header("x-leaseway-endpoint"), Some("idle"));
        }
        busy.release(1);
    };
    let (answer, ()) = futures_util::future::join(first, rest).await;
    assert_eq!(answer.header("x-leaseway-endpoint"), Some("busy"));
    app.until_endpoint(&busy_id, "free", |endpoint| endpoint["in_flight"] == 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn one_who_waits_too_long_is_told_so_on_time() {
    let app = TestApp::with(|config| config.queue.timeout = Duration::from_secs(1)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let question = chat("m", false);
    let first = app.post(CHAT, &question);
    let second = async {
        endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
        let asked = Instant::now();
        let answer = app.post(CHAT, &question).await;
        let waited = asked.elapsed();
        endpoint.release(1);
        assert!((0.9..1.5).contains(&waited.as_secs_f64()), "it took {waited:?}");
        answer
    };
    let (first, second) = futures_util::future::join(first, second).await;
    assert_eq!(first.status, 200);
    assert_eq!(second.error(), (504, "queue_timeout".to_owned()));
    assert_eq!(second.json()["error"]["message"], "Queue wait timeout");
    assert_eq!(second.json()["error"]["type"], "timeout");
    assert!(second.json()["error"]["waited_secs"].as_f64().is_some_and(|waited| (0.9..1.5).contains(&waited)));
    app.finish().await;
}

#[actix_web::test]
async fn without_patience_and_without_room_the_answer_comes_at_once() {
    for (max_waiting, timeout_secs, expected) in [(10, 0, (504, "queue_timeout")), (0, 10, (429, "queue_full"))] {
        let app = TestApp::with(|config| {
            config.queue.max_waiting = max_waiting;
            config.queue.timeout = Duration::from_secs(timeout_secs);
        })
        .await;
        let endpoint = FakeEndpoint::start(&["m"]).await;
        app.register("a", &endpoint, 1).await;
        endpoint.hold();
        let question = chat("m", false);
        let first = app.post(CHAT, &question);
        let second = async {
            endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
            let answer = app.post(CHAT, &question).await;
            endpoint.release(1);
            answer
        };
        let (first, second) = futures_util::future::join(first, second).await;
        assert_eq!(first.status, 200);
        assert_eq!(second.error(), (expected.0, expected.1.to_owned()));
        if expected.0 == 429 {
            assert_eq!(second.json()["error"]["message"], "Request queue is full");
            assert_eq!(second.header("retry-after"), Some("10"));
            assert_eq!(second.json()["error"]["retry_after"], 10);
        }
        app.finish().await;
    }
}

#[actix_web::test]
async fn lowering_the_slots_below_what_is_in_flight_grants_nothing_until_below() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 2).await;
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let question = chat("m", false);
    let requests = join_all((0..3).map(|_| app.post(CHAT, &question)));
    let watch = async {
        viewer.until_depth(1, 2).await;
        let path = format!("/api/endpoints/{id}");
        let change = json!({ "max_concurrency": 1 }).to_string();
        let changed = app.send(awc::http::Method::PUT, &path, &[], &change).await;
        assert_eq!(changed.json()["max_concurrency"], 1, "{}", changed.text());
        endpoint.release(1);
        viewer.until_depth(1, 1).await;
        assert_eq!(endpoint.counts().arrived, 2, "granted although the slots are taken");
        endpoint.release(2);
    };
    let (answers, ()) = soon("the answers", futures_util::future::join(requests, watch)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    app.finish().await;
}

#[actix_web::test]
async fn the_slot_is_free_before_the_client_has_read_the_end() {
    let app = TestApp::with(|config| config.queue.max_waiting = 0).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    for round in 0..50 {
        let answer = app.post(CHAT, &chat("m", round % 2 == 0)).await;
        assert_eq!(answer.status, 200, "in round {round}: {}", answer.text());
    }
    assert_eq!(endpoint.counts().most_in_flight, 1);
    app.finish().await;
}

/// What happened to the request that came last.
struct Last {
    answer: Answer,
    /// The state of the line before the request came.
    state: String,
    /// How many requests the endpoint got before this one.
    served_after: Option<usize>,
}

/// Fills a line of a hundred places with `waiting` requests of one client; then another client asks.
async fn ask_when_waiting(app: &TestApp, endpoint: &FakeEndpoint, waiting: usize) -> Last {
    app.register("a", endpoint, 1).await;
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let ask = |client: &'static str| {
        let body = json!({ "model": "m", "user": client }).to_string();
        async move { app.send(awc::http::Method::POST, CHAT, &[("x-user", client)], &body).await }
    };
    let requests = join_all((0..waiting + 1).map(|_| ask("first")));
    let last = async {
        viewer.until_depth(waiting, 1).await;
        let state = app.get("/api/load-status").await.json()["backpressure_state"].as_str().map(str::to_owned);
        let mut last = Box::pin(ask("last"));
        tokio::select! {
            // The request is refused at once.
            answer = &mut last => {
                endpoint.release(waiting + 1);
                (answer, state)
            }
            () = viewer.until_depth(waiting + 1, 1) => {
                endpoint.release(waiting + 2);
                (last.await, state)
            }
        }
    };
    let (answers, (answer, state)) = soon("the answers", futures_util::future::join(requests, last)).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "those who wait are served");
    let served_after = endpoint.received().iter().position(|received| received.json()["user"] == "last");
    Last { answer, state: state.expect("a state"), served_after }
}

#[actix_web::test]
async fn of_a_hundred_places_the_first_half_is_free_the_next_delayed_and_the_last_fifth_closed() {
    for (waiting, expected_state, expected_status) in
        [(49, "normal", 200), (50, "warning", 200), (79, "warning", 200), (80, "overloaded", 429)]
    {
        let app = TestApp::with(|config| {
            config.queue.client_header = Some("x-user".to_owned());
            // Every delay outlasts the test, except that of the fiftieth request, which is 10 ms.
            config.queue.max_delay = Duration::from_secs(3600);
        })
        .await;
        let endpoint = FakeEndpoint::start(&["m"]).await;
        let last = ask_when_waiting(&app, &endpoint, waiting).await;
        assert_eq!((last.state.as_str(), last.answer.status.as_u16()), (expected_state, expected_status), "{waiting}");
        match waiting {
            // The clients take turns: the request comes after the running one and one that waited.
            49 => assert_eq!(last.served_after, Some(2)),
            50 => assert!(last.served_after.is_some()),
            // The request comes behind the fifty that were not delayed, long before its delay would have ended.
            79 => assert!(last.served_after.is_some_and(|before| before > 50), "{:?}", last.served_after),
            _ => {
                assert_eq!(last.answer.error().1, "overloaded");
                assert_eq!(last.answer.json()["error"]["message"], "Request queue is full");
                assert!(last.answer.header("retry-after").is_some());
                assert_eq!(last.served_after, None);
            }
        }
        app.finish().await;
    }
}

#[actix_web::test]
async fn a_line_may_be_filled_to_the_last_place() {
    let app = TestApp::with(|config| config.queue.reject_threshold = 1.0).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let last = ask_when_waiting(&app, &endpoint, 100).await;
    assert_eq!(last.answer.error(), (429, "queue_full".to_owned()));
    assert_eq!(endpoint.counts().arrived, 101);
    app.finish().await;
}

#[actix_web::test]
async fn the_wait_is_estimated_from_recent_requests() {
    let app = TestApp::with(|config| config.queue.max_waiting = 1).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 1).await;
    endpoint.hold();
    let question = chat("m", false);
    let mut viewer = app.viewer().await;
    let requests = futures_util::future::join(app.post(CHAT, &question), app.post(CHAT, &question));
    let third = async {
        viewer.until_depth(1, 1).await;
        let third = app.post(CHAT, &question).await;
        endpoint.release(2);
        third
    };
    let ((first, second), third) = soon("the answers", futures_util::future::join(requests, third)).await;
    let waited = if first.header("x-queue-status").is_some() { first } else { second };
    assert_eq!(waited.header("x-estimated-wait"), Some("1"), "a fast answer, rounded up");
    assert_eq!(third.error(), (429, "queue_full".to_owned()));
    assert_eq!(third.header("retry-after"), Some("1"), "from the same estimate");
    assert_eq!(third.json()["error"]["retry_after"], 1);
    app.finish().await;
}
