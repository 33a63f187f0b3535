//! What viewers of the dashboard are told.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::json;

use crate::support::test_app::Viewer;
use crate::support::{FakeEndpoint, RawClient, TestApp, chat};

/// The request that opens a session, for a viewer that does not read what comes.
const HANDSHAKE: &str = "GET /ws/dashboard HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[actix_web::test]
async fn viewers_hear_of_endpoints_the_line_and_speeds() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let mut viewer = app.viewer().await;
    let id = app.register("a", &endpoint, 1).await;
    let registered = viewer.until("EndpointRegistered", |_| true).await;
    assert_eq!((&registered["endpoint_id"], &registered["name"]), (&json!(id), &json!("a")));
    let change = viewer.until("EndpointStatusChanged", |_| true).await;
    assert_eq!(change, json!({ "endpoint_id": id, "old_status": "pending", "new_status": "online" }));
    app.post("/v1/chat/completions", &chat("m", false)).await;
    let update = viewer.until("TpsUpdated", |_| true).await;
    assert_eq!((&update["endpoint_id"], &update["model_id"]), (&json!(id), &json!("m")));
    assert_eq!(update["output_tokens"], 7);
    assert!(update["tps"].as_f64().is_some_and(|tps| tps > 0.0));
    app.send(awc::http::Method::DELETE, &format!("/api/endpoints/{id}"), &[], "").await;
    viewer.until("EndpointRemoved", |data| data["endpoint_id"] == json!(id)).await;
    app.finish().await;
    // Wait until viewers are told of the end.
    while viewer.next().await.is_some() {}
}

#[actix_web::test]
async fn what_asks_for_no_web_socket_is_told_so() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/ws/dashboard").await.error(), (400, "invalid_request".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_viewer_that_declares_a_long_frame_is_cut_off_and_fills_no_memory() {
    let app = TestApp::start().await;
    // A masked binary frame of 2^40 bytes, of which some come.
    let head = [0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    for (frame, code) in [(head.to_vec(), 1009), ([&head[..], &[0; 100_000]].concat(), 1009), (vec![0x89, 0], 1002)] {
        let mut viewer = RawClient::send_bytes(app.address, &[HANDSHAKE.as_bytes(), &frame].concat()).await;
        let said = viewer.read_bytes_to_end().await;
        let close = [&[0x88, 2][..], &u16::to_be_bytes(code)].concat();
        assert!(said.windows(4).any(|bytes| bytes == close), "closed with {code}");
    }
    // A ping is answered, and a short message does no harm.
    let frames = [&[0x89, 0x81, 0, 0, 0, 0, b'p'][..], &[0x81, 0x81, 0, 0, 0, 0, b't']].concat();
    let last = [0x89, 0x81, 0, 0, 0, 0, b'q'];
    let all = [HANDSHAKE.as_bytes(), &frames.repeat(50), &last].concat();
    RawClient::send_bytes(app.address, &all).await.read_until("\u{1}q").await;
    app.finish().await;
}

#[actix_web::test]
async fn a_viewer_sees_everything_first_and_then_what_changes() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 2).await;
    app.post("/v1/chat/completions", &chat("m", false)).await;
    app.until_counted(&id, 1, 0).await;
    let mut viewer = app.viewer_from_the_start().await;
    let snapshot = viewer.until("Snapshot", |_| true).await;
    let mut overview = app.get("/api/dashboard/overview").await.json();
    let generated = snapshot["generated_at"].clone();
    overview["generated_at"] = generated;
    assert_eq!(snapshot, overview);
    let stats = &snapshot["stats"];
    assert_eq!(
        json!([stats["online_endpoints"], stats["total_requests"], stats["total_output_tokens"]]),
        json!([1, 1, 7])
    );
    assert_eq!(snapshot["endpoint_tps"][0]["model_count"], 1);
    endpoint.hold();
    let question = chat("m", true);
    let served = app.post("/v1/chat/completions", &question);
    let told = async {
        let depth = viewer.until("QueueDepth", |data| data["active"] == 1).await;
        assert_eq!(depth["in_flight"], json!({ &id: 1 }));
        endpoint.release(1);
        viewer
    };
    let (_, mut viewer) = join(served, told).await;
    let counted = json!({ "endpoint_id": id, "total_requests": 2, "successful_requests": 2, "failed_requests": 0 });
    viewer.until("RequestsCounted", |data| *data == counted).await;
    let mut viewer = app.viewer().await;
    assert_eq!(app.post("/v1/chat/completions", &chat("unknown", true)).await.status, 404);
    let minute = viewer.until("MinuteAdvanced", |data| data["total_requests"] == 3).await;
    let told = ["successful_requests", "failed_requests", "history_rows_dropped"].map(|field| &minute[field]);
    assert_eq!(json!(told), json!([2, 1, 0]));
    assert!(minute["minute"].as_str().is_some_and(|time| time.ends_with(":00Z")), "{minute}");
    let change = json!({ "max_concurrency": 3 }).to_string();
    app.send(awc::http::Method::PUT, &format!("/api/endpoints/{id}"), &[], &change).await;
    viewer.until("EndpointChanged", |data| data["endpoint_id"] == json!(id)).await;
    app.finish().await;
}

#[actix_web::test]
async fn viewers_that_do_not_read_slow_nobody() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 8).await;
    let mut reading = join_all((0..20).map(|_| app.viewer())).await;
    // They answer no pings, so that all must be read before they are taken to be gone.
    let stalled = join_all((0..2).map(|_| RawClient::send(app.address, HANDSHAKE))).await;
    let question = chat("m", false);
    let ask = async || {
        for _ in 0..100 {
            assert_eq!(app.post("/v1/chat/completions", &question).await.status, 200);
        }
    };
    let watch = |viewer: Viewer| async {
        let mut viewer = viewer;
        viewer.until("RequestsCounted", |data| data["total_requests"] == 400).await;
    };
    join(join_all((0..4).map(|_| ask())), join_all(reading.drain(..).map(watch))).await;
    app.until_counted(&id, 400, 0).await;
    drop(stalled);
    app.finish().await;
}

#[actix_web::test]
async fn viewers_that_have_not_read_start_afresh_when_they_do() {
    let app = TestApp::start().await;
    // With so many names a snapshot, of almost 4 MB, is larger than what the sockets hold for a viewer that does not read.
    let names: Vec<String> = (0..2500).map(|number| format!("{number:0>500}")).collect();
    let mut models: Vec<&str> = names.iter().map(String::as_str).collect();
    models.push("m");
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c"] {
        endpoints.push(FakeEndpoint::start(&models).await);
        let id = app.register(name, &endpoints[endpoints.len() - 1], 4).await;
        app.until_endpoint(&id, "online", |view| view["status"] == "online").await;
    }
    let mut reading = app.viewer().await;
    let stalled = join_all((0..5).map(|_| RawClient::send(app.address, HANDSHAKE))).await;
    // Three times as many batches of events as a mailbox takes messages.
    let (started, mut requests) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(5) {
        assert_eq!(app.post("/v1/chat/completions", &chat("m", false)).await.status, 200);
        requests += 1;
    }
    reading.until("MinuteAdvanced", |data| data["total_requests"] == requests).await;
    for mut viewer in stalled {
        viewer.read_until(r#"{"type":"Snapshot""#).await;
        let missed = viewer.read_until(r#"{"type":"Snapshot""#).await;
        let told = missed.matches(r#""type":"MinuteAdvanced""#).count();
        assert!((1..25).contains(&told), "{told} events of a kind were kept for one who did not read");
        viewer.read_until(&format!(r#""total_requests":{requests}}},"history""#)).await;
    }
    app.finish().await;
}

#[actix_web::test]
async fn the_timeline_has_sixty_minutes_and_counts_requests() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    app.post("/v1/chat/completions", &chat("m", false)).await;
    app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 1).await;
    let timeline = app.get("/api/dashboard/request-history").await.json();
    let minutes = timeline.as_array().expect("a list");
    assert_eq!(minutes.len(), 60);
    let successes: u64 = minutes.iter().filter_map(|minute| minute["success"].as_u64()).sum();
    assert_eq!(successes, 1);
    assert!(minutes[59]["minute"].as_str().is_some_and(|time| time.ends_with(":00Z")), "{}", minutes[59]);
    app.finish().await;
}
