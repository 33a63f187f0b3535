//! Room for everybody: memory for bodies, descriptors for connections.

use std::process::Command;
use std::time::Duration;

use awc::http::Method;
use futures_util::future::join_all;
use serde_json::json;
use tempfile::tempdir;

use crate::support::process::Process;
use crate::support::{FakeEndpoint, RawClient, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Begins a request whose body is still to come.
fn announced(length: usize) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

#[actix_web::test]
async fn bodies_that_do_not_fit_beside_those_of_other_requests_are_refused_before_they_are_read() {
    let (app, endpoint) =
        (TestApp::with(|config| config.server.max_buffered_bytes = 10_000).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let mut question = chat("m", false);
    question["padding"] = json!("x".repeat(5_000));
    let mut running = RawClient::post(app.address, CHAT, &question).await;
    endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
    let check = |answer: String| {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"overloaded\""), "{answer}");
        assert!(answer.contains("retry-after: 5"), "{answer}");
    };
    // Nothing of its body is sent.
    check(RawClient::send(app.address, &announced(6_000)).await.read_until("max_buffered_bytes").await);
    let chunk = format!("7d0\r\n{}\r\n", "x".repeat(2_000));
    let chunked = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk.repeat(3));
    check(RawClient::send(app.address, &chunked).await.read_until("max_buffered_bytes").await);
    let small = RawClient::post(app.address, CHAT, &chat("m", false)).await;
    drop(small);
    endpoint.release(1);
    running.read_until("\"usage\"").await;
    endpoint.release(10);
    // The room is free again: five bodies fit one after the other.
    for _ in 0..5 {
        assert_eq!(app.post(CHAT, &question).await.status, 200);
    }
    app.finish().await;
}

#[actix_web::test]
async fn one_who_leaves_while_its_body_is_read_gives_its_room_back() {
    let (app, endpoint) =
        (TestApp::with(|config| config.server.max_buffered_bytes = 10_000).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let body = chat("m", false).to_string();
    for _ in 0..3 {
        let mut slow = RawClient::send(app.address, &announced(9_900)).await;
        slow.write(&[b' '; 9_800]).await;
        let refused = async {
            while app.send(Method::POST, CHAT, &[], &format!("{body}{}", " ".repeat(200))).await.status != 503 {}
        };
        soon("the room to be taken", refused).await;
        drop(slow);
        let served = async { while app.send(Method::POST, CHAT, &[], &body).await.status != 200 {} };
        soon("the room to come back", served).await;
    }
    app.finish().await;
}

#[actix_web::test]
async fn announced_bodies_take_room_as_they_come_and_a_reserve_is_kept_for_small_ones() {
    let (app, endpoint) =
        (TestApp::with(|config| config.server.max_buffered_bytes = 1_600_000).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 4).await;
    let question = chat("m", false).to_string();
    let padded = |bytes: usize| question.clone() + &" ".repeat(bytes - question.len());
    let post = async |body: &str| app.send(Method::POST, CHAT, &[], body).await.status;
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(RawClient::send(app.address, &(announced(1_400_000) + "{")).await);
    }
    assert_eq!(post(&padded(1_000_000)).await, 200, "what is announced takes no room");
    endpoint.hold();
    let large = [1_400_000, 90_000].map(|bytes| announced(bytes) + &padded(bytes));
    let running = join_all(large.iter().map(|request| RawClient::send(app.address, request))).await;
    endpoint.until("large bodies fill their room", |counts| counts.in_flight == 2).await;
    assert_eq!(post(&" ".repeat(70_000)).await, 503);
    assert_eq!(post(&" ".repeat(60_000)).await, 400, "this body was read");
    // There was room for the first byte of this body, but there is none for the rest.
    slow[0].write(&[b' '; 80_000]).await;
    let answer = slow[0].read_until("max_buffered_bytes").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    endpoint.release(10);
    drop((slow, running));
    soon("the room to come back", async { while post(&padded(1_400_000)).await != 200 {} }).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_head_that_stops_coming_is_cut_off_on_a_kept_connection_too() {
    let app = TestApp::with(|config| config.upstream.idle_timeout = Duration::from_millis(500)).await;
    let get = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut idle = RawClient::send(app.address, get).await;
    let mut kept = RawClient::send(app.address, get).await;
    for client in [&mut idle, &mut kept] {
        client.read_until("\"ok\"}").await;
    }
    kept.write(b"G").await;
    for mut client in [kept, RawClient::send(app.address, "GET /health HTTP/1.1\r\n").await] {
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"request_timeout\""), "{answer}");
        assert!(answer.contains("x-request-id: ") && answer.contains("connection: close"), "{answer}");
    }
    // No head has begun on this connection, so no head is late; one that comes in pieces is served.
    idle.write(&get.as_bytes()[..20]).await;
    idle.write(&get.as_bytes()[20..]).await;
    idle.read_until("HTTP/1.1 200").await;
    app.finish().await;
}

#[actix_web::test]
async fn an_answer_before_the_end_of_its_request_ends_the_connection() {
    let app = TestApp::with(|config| config.upstream.idle_timeout = Duration::from_millis(300)).await;
    let check = async |start: &str, status: u16| {
        for framing in ["transfer-encoding: chunked\r\n\r\n1\r\nx\r\n", "content-length: 1000\r\n\r\nx"] {
            let mut client = RawClient::send(app.address, &format!("{start}host: x\r\n{framing}")).await;
            let answer = client.read_to_end().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{start}{framing}: {answer}");
            assert!(answer.contains("connection: close"), "{start}{framing}: {answer}");
        }
    };
    check("POST /v1/chat/completions HTTP/1.1\r\norigin: http://evil.com\r\n", 403).await;
    check("POST /v1/models HTTP/1.1\r\n", 405).await;
    check("POST /v1/chat/completions HTTP/1.1\r\n", 408).await;
    check("GET /health HTTP/1.1\r\n", 200).await;
    app.finish().await;
}

#[actix_web::test]
async fn idle_connections_leave_descriptors_for_endpoints_and_probes() {
    let folder = tempdir().expect("a folder");
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let text = format!(
        "[[endpoints]]\nname = \"a\"\nbase_url = \"{}\"\nmax_concurrency = 100\n[health]\ninterval_secs = 1\n",
        endpoint.url()
    );
    std::fs::write(folder.path().join("leaseway.toml"), text).expect("written");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=128:128", env!("CARGO_BIN_EXE_leaseway"), "--config", "leaseway.toml"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(folder.path());
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    let mut process = Process::start(command);
    process.line("few files may be open open_files=128 clients=48").await;
    let address = process.address().await;
    process.line("endpoint is online").await;
    let mut client = RawClient::post(address, CHAT, &chat("m", false)).await;
    client.read_until("\"usage\"").await;
    let idle = join_all((0..200).map(|_| RawClient::send(address, "GET /health HTTP/1.1\r\n"))).await;
    process.line("all places for clients are taken").await;
    // One that is connected already is served, over a connection to an endpoint; so are probes.
    let body = chat("m", false).to_string();
    client.write(format!("{}{body}", announced(body.len())).as_bytes()).await;
    client.read_until("\"usage\"").await;
    let probed = endpoint.counts().arrived;
    assert_eq!(probed, 2);
    assert!(process.open_files() <= 128);
    drop(idle);
    let answer = RawClient::post(address, CHAT, &chat("m", false)).await.read_until("\"usage\"").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    process.signal("TERM");
    let said = process.rest().await;
    assert!(!said.contains("offline") && said.matches("all places for clients are taken").count() == 1, "{said}");
}
