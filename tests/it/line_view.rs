//! The line as operators see it.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{FakeEndpoint, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

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
