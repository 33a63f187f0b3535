//! A client that leaves frees its place, its lease and the endpoint, in every phase.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fake_endpoint::{STREAM_HEAD, chunk, content};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

/// The client leaves. Checks that within a second the connection to the endpoint is closed and no lease is held, and that
/// the request counts as abandoned: neither success nor failure.
async fn leave(app: TestApp, endpoint: FakeEndpoint, id: &str, client: RawClient) {
    let left = Instant::now();
    drop(client);
    endpoint.until("the endpoint's connection is closed", |counts| counts.left == 1 && counts.in_flight == 0).await;
    let ended = |endpoint: &serde_json::Value| endpoint["in_flight"] == 0 && endpoint["total_requests"] == 1;
    let view = app.until_endpoint(id, "the lease is free", ended).await;
    assert!(left.elapsed() < Duration::from_secs(1), "it took {:?}", left.elapsed());
    assert_eq!((&view["successful_requests"], &view["failed_requests"]), (&json!(0), &json!(0)));
    app.finish().await;
}

#[actix_web::test]
async fn before_the_first_byte_of_a_stream() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    endpoint.until("the request arrives", |counts| counts.in_flight == 1).await;
    leave(app, endpoint, &id, client).await;
}

#[actix_web::test]
async fn after_the_head_but_before_the_first_byte() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| vec![Step::Send(STREAM_HEAD.to_owned()), Step::Gate, Step::Close]);
    let client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    endpoint.until("the request arrives", |counts| counts.in_flight == 1).await;
    leave(app, endpoint, &id, client).await;
}

#[actix_web::test]
async fn in_mid_stream() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| {
        vec![Step::Send(STREAM_HEAD.to_owned()), Step::Send(chunk(&content("Hi"))), Step::Gate, Step::Close]
    });
    let mut client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    client.read_until("Hi").await;
    leave(app, endpoint, &id, client).await;
}

#[actix_web::test]
async fn in_a_request_that_is_no_stream() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"half\":";
        vec![Step::Send(head.to_owned()), Step::Gate, Step::Close]
    });
    let mut client = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    client.read_until("half").await;
    leave(app, endpoint, &id, client).await;
}

#[actix_web::test]
async fn while_waiting() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    let mut viewer = app.viewer().await;
    endpoint.hold();
    let mut first = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
    let second = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    viewer.until_depth(1, 1).await;
    let left = Instant::now();
    drop(second);
    viewer.until_depth(0, 1).await;
    assert!(left.elapsed() < Duration::from_secs(1), "it took {:?}", left.elapsed());
    endpoint.release(1);
    first.read_until("\"usage\"").await;
    app.until_endpoint(&id, "the slot is free", |endpoint| endpoint["in_flight"] == 0).await;
    assert_eq!(endpoint.counts().arrived, 1, "the one that left was dispatched");
    app.finish().await;
}

/// A stream of 32 MB that does not end: more than the sockets hold for a client that does not read.
fn flood() -> Vec<Step> {
    let chunks = (0..4000).map(|_| Step::Send(chunk(&content(&"x".repeat(8000)))));
    [vec![Step::Send(STREAM_HEAD.to_owned())], chunks.collect(), vec![Step::Gate]].concat()
}

#[actix_web::test]
async fn a_client_that_stops_reading_is_cut() {
    let app = TestApp::with(|config| config.upstream.idle_timeout = Duration::from_secs(1)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| flood());
    let mut client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    client.read_until("xxx").await;
    endpoint.until("the endpoint's connection is closed", |counts| counts.left == 1).await;
    app.until_endpoint(&id, "the lease is free", |endpoint| endpoint["in_flight"] == 0).await;
    drop(client);
    app.finish().await;
}

#[actix_web::test]
async fn a_client_that_reads_slowly_is_served_and_cut_once_it_stops() {
    let app = TestApp::with(|config| config.upstream.idle_timeout = Duration::from_secs(3)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| flood());
    let mut client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    client.read_until("xxx").await;
    // More than the kernels of both sides hold back before they let the server write again.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(8) {
        pace.tick().await;
        assert!(client.read_exactly(4096).await, "cut after {:?}", started.elapsed());
    }
    assert_eq!(endpoint.counts().left, 0);
    let stopped = Instant::now();
    endpoint.until("the endpoint's connection is closed", |counts| counts.left == 1).await;
    assert!(stopped.elapsed() > Duration::from_secs(1), "it was cut while it still read");
    app.until_endpoint(&id, "the lease is free", |endpoint| endpoint["in_flight"] == 0).await;
    drop(client);
    app.finish().await;
}
