//! Who is let in, at which paths, with which methods.

use awc::http::Method;
use serde_json::json;

use crate::support::{FakeEndpoint, RawClient, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";
const FOREIGN: (&str, &str) = ("origin", "http://evil.com");
const ALLOWED: (&str, &str) = ("origin", "https://chat.example.com");

/// What opens a viewer's session for a page of another site.
const FOREIGN_HANDSHAKE: &str = " HTTP/1.1\r\nhost: x\r\norigin: http://evil.com\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One model, at one endpoint.
async fn scene() -> (TestApp, FakeEndpoint, String) {
    let allow = |config: &mut leaseway::config::Config| {
        config.server.cors_origins = vec![ALLOWED.1.to_owned()];
        config.server.allowed_hosts = vec!["llm.example.com".to_owned()];
    };
    let (app, endpoint) = (TestApp::with(allow).await, FakeEndpoint::start(&["m", "org/name"]).await);
    let id = app.register("a", &endpoint, 1).await;
    (app, endpoint, id)
}

#[actix_web::test]
async fn a_foreign_page_changes_nothing_and_asks_for_nothing_however_the_path_is_written() {
    let (app, endpoint, id) = scene().await;
    let body = json!({ "name": "b", "base_url": "http://127.0.0.1:9" }).to_string();
    let question = chat("m", false).to_string();
    let check = async |method: Method, path: &str, header: (&str, &str), body: &str| {
        let headers = [header, ("content-type", "text/plain")];
        let answer = app.send(method.clone(), path, &headers, body).await;
        assert_eq!(answer.error(), (403, "cross_site_request".to_owned()), "{method} {path} {header:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    };
    for header in [FOREIGN, ("origin", "null"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")] {
        for path in ["/api/endpoints", "/%61pi/endpoints", "/ap%69/endpoints", "//api/endpoints", "/api//endpoints/"] {
            check(Method::POST, path, header, &body).await;
        }
        for path in [CHAT, "/v1/%63hat/completions", "/chat/completions", "/v1//chat/completions/", "/V1/nothing"] {
            check(Method::POST, path, header, &question).await;
        }
        check(Method::DELETE, &format!("/api/endpoints/{id}"), header, "").await;
    }
    // One whose pages may use the inference API may do nothing else.
    check(Method::POST, "/%61pi/endpoints", ALLOWED, &body).await;
    check(Method::GET, "/api/endpoints", ALLOWED, "").await;
    for path in ["/ws/dashboard", "/%77s/dashboard", "//ws/dashboard"] {
        let mut viewer = RawClient::send(app.address, &format!("GET {path}{FOREIGN_HANDSHAKE}")).await;
        viewer.read_until("HTTP/1.1 403 Forbidden").await;
    }
    assert_eq!(app.get("/api/endpoints").await.json().as_array().map(Vec::len), Some(1));
    assert_eq!(endpoint.counts().arrived, 0);
    let own = format!("http://{}", app.address);
    let headers = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(app.send(Method::POST, "/api/endpoints", &headers, &body).await.status, 201);
    app.finish().await;
}

#[actix_web::test]
async fn pages_of_an_allowed_origin_use_the_inference_api() {
    let (app, _endpoint, _) = scene().await;
    let origin = Some(ALLOWED.1);
    let asked = [
        ALLOWED,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    for path in [CHAT, "/chat/completions", "/v1/models", "/v1/embeddings/"] {
        let answer = app.send(Method::OPTIONS, path, &asked, "").await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, origin), "{path}");
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
    }
    assert_eq!(app.send(Method::OPTIONS, "/api/endpoints", &asked, "").await.status, 403);
    let foreign = [FOREIGN, asked[1]];
    assert_eq!(app.send(Method::OPTIONS, CHAT, &foreign, "").await.status, 403);
    for (model, status) in [("m", 200), ("nobody-has-it", 404)] {
        let answer = app.send(Method::POST, CHAT, &[ALLOWED], &chat(model, false).to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (status, origin));
        assert_eq!(answer.header("vary"), Some("origin"));
        assert!(answer.header("access-control-expose-headers").is_some_and(|names| names.contains("x-request-id")));
    }
    let stream = app.send(Method::POST, CHAT, &[ALLOWED], &chat("m", true).to_string()).await;
    assert_eq!(stream.header("access-control-allow-origin"), origin);
    assert!(stream.text().contains("[DONE]"));
    let plain = app.post(CHAT, &chat("m", false)).await;
    assert_eq!(plain.header("access-control-allow-origin"), None);
    app.finish().await;
}

#[actix_web::test]
async fn a_name_that_a_stranger_made_point_here_is_refused_everywhere_but_at_health() {
    let (app, endpoint, _) = scene().await;
    let ask = async |start: &str, host: &str| {
        let request = format!("{start} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: 0\r\n\r\n");
        RawClient::send(app.address, &request).await.read_to_end().await
    };
    for start in ["GET /api/endpoints", "GET /dashboard", "GET /", "GET /ready", "POST /v1/chat/completions", "GET /x"]
    {
        for host in ["host: evil.com:8420\r\n", "host: 127.0.0.1.evil.com\r\n", "host:\r\n"] {
            let answer = ask(start, host).await;
            assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("host_not_allowed"), "{start}: {answer}");
        }
    }
    let answer = ask("GET http://evil.com/api/endpoints", "host: 127.0.0.1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    for host in ["host: llm.example.com\r\n", "host: box.lan:8420\r\n", "host: [::1]:8420\r\n", "host: leaseway\r\n"] {
        let answer = ask("GET /api/endpoints", host).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    let answer = ask("GET /health", "host: evil.com\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(endpoint.counts().arrived, 0);
    app.finish().await;
}

#[actix_web::test]
async fn a_base_url_with_or_without_v1_and_superfluous_slashes_are_served() {
    let (app, _endpoint, id) = scene().await;
    for path in [CHAT, "/chat/completions", "/v1/chat/completions/", "//v1//chat/completions", "/chat/completions/?x=1"]
    {
        assert_eq!(app.post(path, &chat("m", false)).await.status, 200, "{path}");
    }
    for path in ["/completions", "/embeddings", "/responses", "/v1/responses/"] {
        let refused = app.post(path, &json!({ "model": "nobody-has-it" })).await.error();
        assert_eq!(refused, (404, "model_not_found".to_owned()), "{path}");
    }
    for path in ["/models", "/v1/models/", "/models/"] {
        assert_eq!(app.get(path).await.json()["data"].as_array().map(Vec::len), Some(2), "{path}");
    }
    for path in ["/v1/models/org/name", "/models/org/name", "/models/org%2Fname", "/v1/models/org/name/"] {
        assert_eq!(app.get(path).await.json()["id"], "org/name", "{path}");
    }
    for path in ["/dashboard/", "/api/endpoints/", "//health", "//", "/api//queue///stats"] {
        assert!(app.get(path).await.status.as_u16() < 400, "{path}");
    }
    assert_eq!(app.get(&format!("/api/endpoints/{id}/")).await.json()["id"], json!(id));
    for path in ["/v1", "/v1/chat", "/api", "/chat/completions/x", "/v1/v1/models", "/%2Fhealth"] {
        assert_eq!(app.get(path).await.error(), (404, "not_found".to_owned()), "{path}");
    }
    app.finish().await;
}

#[actix_web::test]
async fn a_wrong_method_is_told_the_right_ones_and_head_is_answered_wherever_get_is() {
    let (app, _endpoint, id) = scene().await;
    let check = async |method: Method, path: &str, allow: &str| {
        let answer = app.send(method, path, &[], "").await;
        assert_eq!(answer.error(), (405, "method_not_allowed".to_owned()), "{path}");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    };
    check(Method::GET, CHAT, "POST").await;
    check(Method::OPTIONS, CHAT, "POST").await;
    check(Method::DELETE, "/models", "GET, HEAD").await;
    check(Method::PATCH, "/api/endpoints", "GET, HEAD, POST").await;
    check(Method::POST, &format!("/api/endpoints/{id}"), "GET, HEAD, PUT, DELETE").await;
    check(Method::POST, "/dashboard", "GET, HEAD").await;
    let paths = [
        "/health",
        "/ready",
        "/",
        "/dashboard",
        "/static/style.css",
        "/v1/models",
        "/models/m",
        "/api/endpoints",
        "/api/dashboard/overview",
        "/api/queue/stats",
        "/api/load-status",
    ];
    for path in paths {
        let (head, whole) = (app.send(Method::HEAD, path, &[], "").await, app.get(path).await);
        assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
    }
    app.finish().await;
}
