//! Clients take turns, and how a client is identified.

use std::pin::Pin;

use futures_util::future::join_all;

use crate::support::test_app::{Answer, Viewer};
use crate::support::{FakeEndpoint, RawClient, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Sends a request in a client's name and waits until the request is in the line.
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

#[actix_web::test]
async fn a_client_header_of_any_bytes_and_any_length_names_a_client() {
    let app = TestApp::with(|config| config.queue.client_header = Some("x-user".to_owned())).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let long = "x".repeat(10 * 1024);
    let mut clients = Vec::new();
    // The two long names differ in their last byte only.
    let names: Vec<Vec<u8>> = vec![
        b"ran".to_vec(),
        [long.as_bytes(), b"1"].concat(),
        [long.as_bytes(), b"1"].concat(),
        [long.as_bytes(), b"2"].concat(),
        b"\xff\x80 \t\"; DROP".to_vec(),
    ];
    for (waiting, name) in names.into_iter().enumerate() {
        let body = chat("m", false).to_string();
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\nx-user: ", body.len());
        let request = [head.as_bytes(), &name, b"\r\n\r\n", body.as_bytes()].concat();
        clients.push(RawClient::send_bytes(app.address, &request).await);
        viewer.until_depth(waiting, 1).await;
    }
    endpoint.release(5);
    let mut positions = Vec::new();
    for mut client in clients {
        let answer = client.read_until("Hello").await;
        positions.extend(answer.lines().find_map(|line| line.strip_prefix("x-queue-position: ").map(str::to_owned)));
    }
    assert_eq!(positions, ["1", "2", "2", "3"], "a second long name has a turn of its own");
    viewer.until_depth(0, 0).await;
    app.finish().await;
}
