//! HTTPS: everything that holds over TCP holds over TLS.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::Command;

use crate::support::certificates::Authority;
use crate::support::fake_endpoint::{STREAM_HEAD, chunk, content};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

const GET: &str = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[actix_web::test]
async fn requests_streams_and_viewers_come_over_tls() {
    let authority = Authority::new();
    let (app, endpoint) = (TestApp::with_tls(&authority, |_| {}).await, FakeEndpoint::start(&["m"]).await);
    let mut viewer = app.viewer().await;
    app.register("a", &endpoint, 1).await;
    viewer.until("EndpointRegistered", |data| data["name"] == "a").await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    viewer.until("RequestsCounted", |data| data["successful_requests"] == 1).await;
    let mut client = RawClient::post_over_tls(app.address, &authority.trust(), CHAT, &chat("m", true)).await;
    let stream = client.read_until("[DONE]").await;
    assert!(stream.starts_with("HTTP/1.1 200") && stream.contains("Hel"), "{stream}");
    // A body that comes in many records, on a connection with one answer behind it.
    let mut question = chat("m", false);
    question["padding"] = json!("x".repeat(1_000_000));
    let body = question.to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write((head + &body).as_bytes()).await;
    client.read_until("\"usage\"").await;
    assert_eq!(endpoint.received().last().map(|received| received.body.len() > 1_000_000), Some(true));
    app.finish().await;
}

#[actix_web::test]
async fn sessions_are_for_https_only() {
    let mut app = TestApp::with_tls(&Authority::new(), |_| {}).await;
    let made = app.post("/api/keys", &json!({ "name": "root", "scopes": ["admin"] })).await.json();
    app.key = made["key"].as_str().map(str::to_owned);
    let session = app.post("/api/session", &json!({ "key": made["key"] })).await;
    let cookie = session.header("set-cookie").expect("a cookie");
    assert!(session.status == 200 && cookie.contains("; Secure"), "{cookie}");
    app.finish().await;
}

#[actix_web::test]
async fn curl_reads_a_stream() {
    let authority = Authority::new();
    let (app, endpoint) = (TestApp::with_tls(&authority, |_| {}).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let mut command = Command::new("curl");
    command.arg("--silent").arg("--show-error").arg("--no-buffer").arg("--cacert").arg(authority.file());
    command.args(["--header", "content-type: application/json", "--data", &chat("m", true).to_string()]);
    command.arg(app.url("http", CHAT)).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("the end of curl", command.output()).await.expect("curl");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("Hel") && said.contains("[DONE]"), "{said} {wrong}");
    app.finish().await;
}

#[actix_web::test]
async fn only_http_1_1_is_agreed_on() {
    let authority = Authority::new();
    let app = TestApp::with_tls(&authority, |_| {}).await;
    let both = authority.trust_for(&[b"h2", b"http/1.1"]).connect(app.address).await.expect("a TLS connection");
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = authority.trust_for(&[b"h2"]).connect(app.address).await.expect_err("no protocol in common");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    drop(both);
    app.finish().await;
}

#[actix_web::test]
async fn a_client_that_leaves_in_mid_stream_abandons_its_lease_at_once() {
    let authority = Authority::new();
    // A client that says good-bye, and one that is killed.
    for says_so in [true, false] {
        let (app, endpoint) = (TestApp::with_tls(&authority, |_| {}).await, FakeEndpoint::start(&["m"]).await);
        let id = app.register("a", &endpoint, 1).await;
        let begin = [STREAM_HEAD.to_owned(), chunk(&content("Hi"))].map(Step::Send).to_vec();
        endpoint.script(move |_| [begin.clone(), vec![Step::Gate, Step::Close]].concat());
        let mut client = RawClient::post_over_tls(app.address, &authority.trust(), CHAT, &chat("m", true)).await;
        client.read_until("Hi").await;
        let left = Instant::now();
        if says_so {
            client.end().await;
        }
        drop(client);
        endpoint.until("the endpoint's connection is closed", |counts| counts.left == 1).await;
        let view = app.until_counted(&id, 1, 0).await;
        assert!(left.elapsed() < Duration::from_secs(1), "it took {:?}", left.elapsed());
        assert_eq!(view["successful_requests"], 0);
        app.finish().await;
    }
}

#[actix_web::test]
async fn a_client_that_stops_reading_is_cut() {
    let authority = Authority::new();
    let app = TestApp::with_tls(&authority, |config| config.upstream.idle_timeout = Duration::from_secs(1)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    // More than the sockets hold for a client that does not read.
    let flood = std::iter::once(STREAM_HEAD.to_owned()).chain((0..4000).map(|_| chunk(&content(&"x".repeat(8000)))));
    let steps: Vec<Step> = flood.map(Step::Send).chain([Step::Gate]).collect();
    endpoint.script(move |_| steps.clone());
    let mut client = RawClient::post_over_tls(app.address, &authority.trust(), CHAT, &chat("m", true)).await;
    client.read_until("xxx").await;
    endpoint.until("the endpoint's connection is closed", |counts| counts.left == 1).await;
    app.until_endpoint(&id, "the lease is free", |endpoint| endpoint["in_flight"] == 0).await;
    drop(client);
    app.finish().await;
}

#[actix_web::test]
async fn a_head_or_body_that_stops_coming_is_answered_over_tls() {
    let authority = Authority::new();
    let app = TestApp::with_tls(&authority, |config| config.upstream.idle_timeout = Duration::from_secs(1)).await;
    let body = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{");
    for begun in ["GET /health HTTP/1.1\r\n", &body] {
        let mut client = RawClient::send_over_tls(app.address, &authority.trust(), begun).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"request_timeout\""), "{begun}{answer}");
    }
    app.finish().await;
}

#[actix_web::test]
async fn clients_that_do_not_finish_the_handshake_are_cut_and_hold_nobody_up() {
    let authority = Authority::new();
    let app = TestApp::with_tls(&authority, |config| config.upstream.idle_timeout = Duration::from_secs(2)).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(RawClient::send(app.address, "").await);
        // The head of a record of 512 bytes, and the beginning of a `ClientHello`.
        slow.push(RawClient::send_bytes(app.address, &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await);
    }
    // If each of them held up the next for 2 s, this would take minutes.
    assert_eq!(app.get("/health").await.status, 200);
    for client in &mut slow {
        assert_eq!(client.read_bytes_to_end().await, b"");
    }
    app.finish().await;
}

#[actix_web::test]
async fn a_client_without_tls_is_told_so() {
    let authority = Authority::new();
    let app = TestApp::with_tls(&authority, |_| {}).await;
    let answer = RawClient::send(app.address, GET).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"https_required\""), "{answer}");
    // What is neither HTTP nor TLS gets an alert of TLS at most.
    for garbage in [&b"\0\0\0\0\0\0\0\0"[..], &[22, 3, 1, 0, 4, 1, 2, 3, 4], &[0xff; 100_000]] {
        let said = RawClient::send_bytes(app.address, garbage).await.read_bytes_to_end().await;
        assert!(said.is_empty() || said[0] == 21, "{said:?}");
    }
    let answer = RawClient::send_over_tls(app.address, &authority.trust(), GET).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    app.finish().await;
}
