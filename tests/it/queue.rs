//! Slots and the line.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::test_app::{Answer, Viewer};
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

/// Sends a request in a client's name and waits until it stands in the line.
async fn queue_up<'a>(
    app: &'a TestApp,
    viewer: &mut Viewer,
    client: &'a str,
    waiting: usize,
) -> Pin<Box<dyn Future<Output = Answer> + 'a>> {
    let body = serde_json::json!({ "model": "m", "user": client }).to_string();
    let mut request = Box::pin(async move {
        let headers = [("x-user", client), ("content-type", "application/json")];
        app.send(awc::http::Method::POST, CHAT, &headers, &body).await
    });
    assert!(futures_util::poll!(request.as_mut()).is_pending());
    tokio::select! {
        answer = request.as_mut() => panic!("answered early: {answer:?}"),
        () = viewer.until_depth(waiting, 1) => {}
    }
    request
}

#[actix_web::test]
async fn clients_take_turns_whoever_came_first() {
    let app = TestApp::with(|config| config.queue.client_header = Some("x-user".to_owned())).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let mut requests = vec![queue_up(&app, &mut viewer, "x", 0).await];
    for (waiting, client) in ["A", "A", "A", "A", "A", "B", "B"].into_iter().enumerate() {
        requests.push(queue_up(&app, &mut viewer, client, waiting + 1).await);
    }
    endpoint.release(8);
    let answers = soon("the answers", join_all(requests)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(answers[0].header("x-queue-status"), None, "the first did not wait");
    let positions: Vec<Option<&str>> = answers[1..].iter().map(|answer| answer.header("x-queue-position")).collect();
    assert_eq!(positions, ["1", "2", "3", "4", "5", "2", "4"].map(Some));
    for answer in &answers[1..] {
        assert_eq!(answer.header("x-queue-status"), Some("queued"));
        assert!(answer.header("x-queue-wait-ms").is_some_and(|wait| wait.parse::<u64>().is_ok()));
        assert_eq!(answer.header("x-estimated-wait"), None, "there is no data yet");
    }
    let served: Vec<String> = endpoint.received().iter().map(|received| received.json()["user"].to_string()).collect();
    assert_eq!(served.concat().replace('"', ""), "xABABAAA");
    app.finish().await;
}

/// Fills a line of a hundred one by one, and returns the answer to the request that comes when `waiting` wait.
async fn answer_with_waiting(app: &TestApp, endpoint: &FakeEndpoint, waiting: usize) -> Answer {
    let mut viewer = app.viewer().await;
    let question = chat("m", false);
    let requests = join_all((0..waiting + 1).map(|_| app.post(CHAT, &question)));
    let last = async {
        viewer.until_depth(waiting, 1).await;
        let answer = app.post(CHAT, &question).await;
        endpoint.release(waiting + 1);
        answer
    };
    let (answers, last) = soon("the answers", futures_util::future::join(requests, last)).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "those who wait are served");
    last
}

#[actix_web::test]
async fn a_line_that_is_nearly_full_refuses_newcomers_and_serves_those_who_wait() {
    let app = TestApp::with(|config| config.queue.max_delay = Duration::from_millis(10)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let answer = answer_with_waiting(&app, &endpoint, 80).await;
    assert_eq!(answer.error(), (429, "overloaded".to_owned()));
    assert_eq!(answer.json()["error"]["message"], "Request queue is full");
    assert!(answer.header("retry-after").is_some());
    app.finish().await;
}

#[actix_web::test]
async fn a_line_may_be_filled_to_the_last_place() {
    let app = TestApp::with(|config| config.queue.reject_threshold = 1.0).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let answer = answer_with_waiting(&app, &endpoint, 100).await;
    assert_eq!(answer.error(), (429, "queue_full".to_owned()));
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

#[actix_web::test]
async fn operators_see_the_line() {
    let app = TestApp::with(|config| config.queue.max_waiting = 2).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let question = chat("m", false);
    let mut viewer = app.viewer().await;
    let requests = join_all((0..3).map(|_| app.post(CHAT, &question)));
    let watch = async {
        viewer.until_depth(2, 1).await;
        assert_eq!(app.post(CHAT, &question).await.status, 429);
        let expected = serde_json::json!({
            "backpressure_state": "overloaded",
            "queue_size": 2,
            "max_queue_size": 2,
            "load_ratio": 1.0,
            "active_leases": 1,
        });
        assert_eq!(app.get("/api/load-status").await.json(), expected);
        let stats = app.get("/api/queue/stats").await.json();
        assert_eq!((&stats["waiting_count"], &stats["processing_count"]), (&2.into(), &1.into()));
        assert_eq!((&stats["timeout_count"], &stats["rejected_count"]), (&0.into(), &1.into()));
        endpoint.release(3);
    };
    soon("the answers", futures_util::future::join(requests, watch)).await;
    let stats = app.get("/api/queue/stats").await.json();
    assert_eq!((&stats["waiting_count"], &stats["processing_count"]), (&0.into(), &0.into()));
    assert!(stats["avg_wait_time_ms"].as_f64().is_some_and(|wait| wait > 0.0), "{stats}");
    assert!(stats["avg_process_time_ms"].as_f64().is_some_and(|time| time > 0.0), "{stats}");
    assert_eq!(app.get("/api/load-status").await.json()["backpressure_state"], "normal");
    app.finish().await;
}

#[actix_web::test]
async fn operators_see_who_waits_for_what_and_why_leases_were_granted() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m", "n"]).await);
    app.register("a", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let [m, n] = ["m", "n"].map(|model| chat(model, false));
    let running = app.post("/v1/completions", &m);
    let watch = async {
        viewer.until_depth(0, 1).await;
        let waiting = join_all([app.post(CHAT, &n), app.post(CHAT, &m), app.post(CHAT, &n)]);
        let look = async {
            viewer.until_depth(3, 1).await;
            let line = app.get("/api/queue/waiting").await.json();
            let wait = |model: &str, waiting, estimated: serde_json::Value| json!({ "model": model, "waiting": waiting, "estimated_wait": estimated });
            assert_eq!(line["models"], json!([wait("n", 2, json!(null)), wait("m", 1, json!(1))]), "{line}");
            let [running] = &line["running"].as_array().expect("a list")[..] else { panic!("{line}") };
            assert!(running["elapsed_ms"].is_u64(), "{running}");
            let expected = json!({
                "endpoint": "a", "model": "m", "api_kind": "completions", "elapsed_ms": running["elapsed_ms"],
            });
            assert_eq!(*running, expected);
            assert_eq!(line["grants"].as_array().map(Vec::len), Some(2));
            endpoint.release(4);
        };
        futures_util::future::join(waiting, look).await
    };
    soon("the answers", futures_util::future::join(running, watch)).await;
    let line = app.get("/api/queue/waiting").await.json();
    assert_eq!((&line["models"], &line["running"]), (&json!([]), &json!([])));
    let newest = &line["grants"][0];
    assert_eq!((&newest["endpoint"], &newest["reason"]), (&json!("a"), &json!("only_candidate")));
    assert!(newest["wait_ms"].as_u64().is_some_and(|wait| wait > 0), "it waited: {newest}");
    let time =
        newest["time"].as_str().and_then(|time| chrono::DateTime::parse_from_rfc3339(time).ok()).expect("a time");
    let age = chrono::Utc::now().signed_duration_since(time);
    assert!((-1..10).contains(&age.num_seconds()), "{newest}");
    app.finish().await;
}

#[actix_web::test]
async fn the_latest_fifty_grants_are_remembered() {
    let app = TestApp::start().await;
    let endpoints = [FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await];
    app.register("a", &endpoints[0], 1).await;
    app.register("b", &endpoints[1], 1).await;
    for _ in 0..52 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    let line = app.get("/api/queue/waiting").await.json();
    let grants = line["grants"].as_array().expect("a list");
    assert_eq!(grants.len(), 50);
    assert!(grants.iter().all(|grant| grant["reason"] == "round_robin"), "{line}");
    app.finish().await;
}
