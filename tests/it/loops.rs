//! Requests that would return to a Leaseway that has already passed them on, and addresses that no endpoint may have.

use awc::http::Method;
use futures_util::future::{FutureExt, join};
use leaseway::domain::endpoint::EndpointDefinition;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::support::{FakeEndpoint, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Returns a free port. Another process could take the port before the test does.
fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// An endpoint of the config file that is tried first.
fn first_choice(name: &str, address: std::net::SocketAddr) -> EndpointDefinition {
    let definition = EndpointDefinition::new(name, format!("http://{address}"));
    EndpointDefinition { capability_score: Some(10), max_concurrency: Some(100), ..definition }
}

#[actix_web::test]
async fn a_leaseway_is_not_its_own_endpoint_but_may_be_that_of_another() {
    let (app, other, endpoint) = (TestApp::start().await, TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    let address = app.address;
    for base_url in [format!("http://{address}"), format!("http://localhost:{}/v1/", address.port())] {
        let body = json!({ "name": "b", "base_url": base_url });
        let refused = (400, "endpoint_is_leaseway".to_owned());
        assert_eq!(app.post("/api/endpoints", &body).await.error(), refused, "{base_url}");
        let change = json!({ "base_url": base_url }).to_string();
        let answer = app.send(Method::PUT, &format!("/api/endpoints/{id}"), &[], &change).await;
        assert_eq!(answer.error(), refused, "{base_url}");
    }
    let body = json!({ "name": "b", "base_url": format!("http://{address}") });
    assert_eq!(other.post("/api/endpoints", &body).await.status, 201);
    assert_eq!(app.get("/api/endpoints").await.json().as_array().map(Vec::len), Some(1));
    other.finish().await;
    app.finish().await;
}

#[actix_web::test]
async fn an_address_is_asked_once_whether_it_is_this_leaseway_unless_it_is_refused_anyway() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let b = app.register("b", &FakeEndpoint::start(&["m"]).await, 1).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", silent.local_addr().expect("an address"));
    let body = |name: &str| json!({ "name": name, "base_url": base_url });
    let refused = (409, "endpoint_exists".to_owned());
    assert_eq!(app.post("/api/endpoints", &body("a")).await.error(), refused);
    let path = format!("/api/endpoints/{b}");
    assert_eq!(app.send(Method::PUT, &path, &[], &body("a").to_string()).await.error(), refused);
    assert!(silent.accept().now_or_never().is_none(), "a name that is taken causes no question");
    let asked = async {
        let (mut socket, _) = silent.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(socket.read_buf(&mut head).await.expect("readable") > 0);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.starts_with("get /health ") && head.contains("connection: close"), "{head}");
        assert!(socket.read_buf(&mut Vec::new()).await.is_ok_and(|count| count == 0), "the question is given up");
    };
    let (answer, ()) = join(app.post("/api/endpoints", &body("c")), soon("the question", asked)).await;
    assert_eq!(answer.status, 201);
    app.finish().await;
}

#[actix_web::test]
async fn a_request_that_comes_back_is_cut_at_once() {
    let address = free_address();
    let own = |config: &mut leaseway::config::Config| {
        config.server.bind = address;
        config.endpoints = vec![first_choice("own", address)];
    };
    let (app, endpoint) = (TestApp::with(own).await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let own = app.get("/api/endpoints").await.json()[0]["id"].as_str().expect("an id").to_owned();
    app.send(Method::POST, &format!("/api/endpoints/{own}/sync"), &[], "").await;
    app.until_endpoint(&own, "it lists what it serves", |view| view["models"] == json!(["m"])).await;
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("a")));
    app.until_counted(&own, 1, 1).await;
    assert_eq!(endpoint.counts().arrived, 1);
    let instance = app.get("/health").await.header("x-leaseway-instance").expect("an id").to_owned();
    assert_eq!(endpoint.received()[0].header("x-leaseway-via"), Some(instance.as_str()));
    let headers = [("x-leaseway-via", instance.as_str())];
    let answer = app.send(Method::POST, CHAT, &headers, &chat("m", false).to_string()).await;
    assert_eq!((answer.error(), answer.header("x-should-retry")), ((508, "loop_detected".to_owned()), Some("false")));
    app.finish().await;
}

#[actix_web::test]
async fn a_ring_of_two_is_cut_where_it_closes() {
    let (a, b) = (free_address(), free_address());
    let first = TestApp::with(|config| {
        config.server.bind = a;
        config.endpoints = vec![first_choice("second", b)];
    });
    let first = first.await;
    let second = TestApp::with(|config| {
        config.server.bind = b;
        config.endpoints = vec![first_choice("first", a)];
    });
    let (second, endpoint) = (second.await, FakeEndpoint::start(&["m"]).await);
    second.register("a", &endpoint, 1).await;
    for app in [&first, &second] {
        let id = app.get("/api/endpoints").await.json()[0]["id"].as_str().expect("an id").to_owned();
        app.send(Method::POST, &format!("/api/endpoints/{id}/sync"), &[], "").await;
        app.until_endpoint(&id, "it lists what it serves", |view| view["models"] == json!(["m"])).await;
    }
    let answer = first.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-leaseway-endpoint")), (200, Some("second")));
    assert_eq!(endpoint.counts().arrived, 1);
    second.finish().await;
    first.finish().await;
}

#[actix_web::test]
async fn a_new_address_forgets_the_key_and_link_local_ones_are_refused() {
    let (app, old, new) =
        (TestApp::start().await, FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let body = json!({ "name": "a", "base_url": old.url(), "api_key": "secret" });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |view| view["status"] == "online").await;
    let change = async |change: serde_json::Value| {
        app.send(Method::PUT, &format!("/api/endpoints/{id}"), &[], &change.to_string()).await
    };
    let key_at = async |endpoint: &FakeEndpoint| {
        app.until_endpoint(&id, "online", |view| view["status"] == "online").await;
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
        endpoint.received().last().and_then(|received| received.header("authorization").map(str::to_owned))
    };
    assert_eq!(key_at(&old).await.as_deref(), Some("Bearer secret"));
    // The same address, written otherwise.
    assert_eq!(change(json!({ "base_url": format!("{}/v1/", old.url()) })).await.status, 200);
    assert_eq!(key_at(&old).await.as_deref(), Some("Bearer secret"));
    assert_eq!(change(json!({ "base_url": new.url() })).await.status, 200);
    assert_eq!(key_at(&new).await, None);
    assert_eq!(change(json!({ "base_url": old.url(), "api_key": "another" })).await.status, 200);
    assert_eq!(key_at(&old).await.as_deref(), Some("Bearer another"));
    for base_url in ["http://169.254.169.254", "http://[fe80::1]:8000/v1", "http://2852039166"] {
        let body = json!({ "name": "b", "base_url": base_url });
        assert_eq!(app.post("/api/endpoints", &body).await.error(), (400, "invalid_request".to_owned()));
        assert_eq!(change(json!({ "base_url": base_url })).await.error(), (400, "invalid_request".to_owned()));
    }
    app.finish().await;
}
