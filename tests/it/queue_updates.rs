//! Live updates for waiting clients that ask for them.

use std::time::Duration;

use awc::http::Method;
use leaseway::config::Config;

use crate::support::fake_endpoint::{DONE, json_answer, polite};
use crate::support::test_app::Viewer;
use crate::support::{FakeEndpoint, RawClient, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";
const WANTED: &str = "x-leaseway-queue-updates: sse\r\n";

/// An endpoint of one slot, held by a request until the endpoint's gate is opened.
struct Scene {
    app: TestApp,
    endpoint: FakeEndpoint,
    viewer: Viewer,
    /// The request that holds the slot.
    first: RawClient,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let (app, endpoint) = (TestApp::with(change).await, FakeEndpoint::start(&["m"]).await);
        app.register("a", &endpoint, 1).await;
        endpoint.hold();
        let mut viewer = app.viewer().await;
        let first = RawClient::post(app.address, CHAT, &chat("m", false)).await;
        viewer.until_depth(0, 1).await;
        Self { app, endpoint, viewer, first }
    }

    /// Sends one more request, which waits for its stream with updates.
    async fn wait(&mut self, waiting: usize) -> RawClient {
        let client = RawClient::post_with(self.app.address, CHAT, WANTED, &chat("m", true)).await;
        self.viewer.until_depth(waiting, 1).await;
        client
    }

    async fn finish(mut self) {
        self.endpoint.release(10);
        self.viewer.until_depth(0, 0).await;
        drop(self.first);
        self.app.finish().await;
    }
}

#[actix_web::test]
async fn one_who_waits_hears_its_place_at_once_and_whenever_it_changes_and_then_the_stream() {
    let mut scene = Scene::new(|_| {}).await;
    let mut second = scene.wait(1).await;
    let mut third = scene.wait(2).await;
    let head = second.read_until(": queued position=1\n\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("content-type: text/event-stream\r\n"), "{head}");
    assert!(head.contains("x-request-id: ") && head.contains("x-accel-buffering: no\r\n"), "{head}");
    for unsaid in ["x-queue-", "x-estimated-wait", "x-leaseway-endpoint"] {
        assert!(!head.contains(unsaid), "{unsaid} in {head}");
    }
    third.read_until(": queued position=2\n\n").await;
    scene.endpoint.release(1);
    scene.first.read_until("Hello").await;
    third.read_until(": queued position=1 eta=1\n\n").await;
    scene.endpoint.release(1);
    let stream = second.read_until(DONE).await;
    assert!(stream.contains("\"content\":\"Hel\""), "{stream}");
    assert!(!stream.contains("usage\":{"), "usage that was not asked for: {stream}");
    scene.endpoint.release(1);
    third.read_until(DONE).await;
    scene.finish().await;
}

#[actix_web::test]
async fn what_goes_wrong_later_is_an_event() {
    let mut scene = Scene::new(|config| config.queue.timeout = Duration::from_secs(1)).await;
    let mut late = scene.wait(1).await;
    let heard = late.read_until("\n\n\r\n0\r\n\r\n").await;
    assert!(heard.contains("\"code\":\"queue_timeout\"") && heard.contains("Queue wait timeout"), "{heard}");
    assert!(!heard.contains("[DONE]"), "{heard}");
    scene.finish().await;
}

#[actix_web::test]
async fn an_endpoint_that_refuses_a_request_that_waited_is_heard() {
    let mut scene = Scene::new(|_| {}).await;
    let mut second = scene.wait(1).await;
    let mut third = scene.wait(2).await;
    let words =
        "{\n \"error\": {\"message\": \"of the endpoint\", \"type\": \"x\", \"param\": null, \"code\": null}\n}";
    scene.endpoint.script(move |received| match received.json()["stream"].as_bool() {
        Some(true) => json_answer(400, words),
        _ => polite(received),
    });
    scene.endpoint.release(1);
    let heard = second.read_until("0\r\n\r\n").await;
    assert!(heard.contains("data: {\"error\":{") && heard.contains("of the endpoint"), "{heard}");
    assert!(!heard.contains("[DONE]"), "{heard}");
    let heard = third.read_until("0\r\n\r\n").await;
    assert!(heard.contains("of the endpoint"), "{heard}");
    scene.finish().await;
}

#[actix_web::test]
async fn who_does_not_wait_is_answered_as_ever() {
    let (app, endpoint) =
        (TestApp::with(|config| config.queue.max_waiting = 0).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let headers = [("x-leaseway-queue-updates", "sse")];
    let ask = async |body: &str| app.send(Method::POST, CHAT, &headers, body).await;
    let stream = ask(&chat("m", true).to_string()).await;
    assert_eq!((stream.status.as_u16(), stream.header("x-leaseway-endpoint")), (200, Some("a")));
    assert!(!stream.text().contains(": queued"), "{}", stream.text());
    assert_eq!(ask(&chat("x", true).to_string()).await.error(), (404, "model_not_found".to_owned()));
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let first = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    viewer.until_depth(0, 1).await;
    assert_eq!(ask(&chat("m", true).to_string()).await.error(), (429, "queue_full".to_owned()));
    drop(first);
    viewer.until_depth(0, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn only_a_stream_has_updates_and_only_when_asked_for() {
    let mut scene = Scene::new(|_| {}).await;
    let mut whole = RawClient::post_with(scene.app.address, CHAT, WANTED, &chat("m", false)).await;
    scene.viewer.until_depth(1, 1).await;
    let mut unasked = RawClient::post(scene.app.address, CHAT, &chat("m", true)).await;
    scene.viewer.until_depth(2, 1).await;
    scene.endpoint.release(3);
    let whole = whole.read_until("Hello").await;
    assert!(whole.contains("x-queue-status: queued"), "{whole}");
    let unasked = unasked.read_until(DONE).await;
    assert!(unasked.contains("x-queue-status: queued") && !unasked.contains("\n: "), "{unasked}");
    scene.finish().await;
}

#[actix_web::test]
async fn one_who_leaves_frees_its_place() {
    let mut scene = Scene::new(|_| {}).await;
    let mut second = scene.wait(1).await;
    second.read_until(": queued position=1").await;
    drop(second);
    scene.viewer.until_depth(0, 1).await;
    scene.endpoint.release(1);
    scene.first.read_until("Hello").await;
    assert_eq!(scene.endpoint.counts().arrived, 1, "dispatched for one who has left");
    scene.finish().await;
}
