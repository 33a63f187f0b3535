//! What passes through, and what Leaseway answers itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use awc::http::Method;
use serde_json::json;

use crate::support::fake_endpoint::{DONE, FINISH, STREAM_HEAD, chunk, content, json_answer, polite, stream_answer};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

#[actix_web::test]
async fn bodies_and_status_pass_unchanged_on_every_path() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("gpu-1", &endpoint, 1).await;
    endpoint.script(|_| json_answer(200, "{ \"odd\" :  [1e400, \"\\u00e4\"]}\n"));
    for path in [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"] {
        let body = " {\"model\" : \"m\",\n \"unknown\": 1.0e2, \"input\":\"x\"}";
        let headers = [
            ("authorization", "Bearer of-the-client"),
            ("content-type", "application/json"),
            ("x-custom", "passes"),
            ("accept-encoding", "gzip"),
            ("x-api-key", "of-the-client"),
            ("cookie", "session=of-the-client"),
            ("x-forwarded-for", "10.0.0.7"),
        ];
        let answer = app.send(Method::POST, path, &headers, body).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "{ \"odd\" :  [1e400, \"\\u00e4\"]}\n"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-leaseway-endpoint"), Some("gpu-1"));
        let received = endpoint.received().pop().expect("it arrived");
        assert_eq!((received.path.as_str(), received.body.as_str()), (path, body));
        for private in ["authorization", "x-api-key", "cookie", "x-forwarded-for"] {
            assert_eq!(received.header(private), None, "{private}");
        }
        assert_eq!(received.header("accept-encoding"), Some("identity"));
        assert_eq!(received.header("x-custom"), Some("passes"));
        assert_eq!(received.header("host"), Some(endpoint.address.to_string().as_str()));
    }
    app.finish().await;
}

#[actix_web::test]
async fn the_endpoints_own_key_is_sent_and_never_shown() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let body = json!({ "name": "a", "base_url": endpoint.url() + "/v1/", "api_key": "of-the-endpoint" });
    let registered = app.post("/api/endpoints", &body).await;
    assert!(!registered.text().contains("of-the-endpoint"));
    let id = registered.json()["id"].as_str().expect("an id").to_owned();
    let shown = app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    assert!(!shown.to_string().contains("of-the-endpoint"));
    app.post(CHAT, &chat("m", false)).await;
    let received = endpoint.received().pop().expect("it arrived");
    assert_eq!(received.header("authorization"), Some("Bearer of-the-endpoint"));
    app.finish().await;
}

#[actix_web::test]
async fn events_arrive_one_by_one_as_they_are_sent() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    endpoint.script(|_| {
        let mut steps = vec![Step::Send(STREAM_HEAD.to_owned())];
        for text in ["one", "two"] {
            steps.extend([Step::Send(chunk(&content(text))), Step::Gate]);
        }
        steps.push(Step::Send(chunk(DONE) + &chunk("")));
        steps
    });
    let mut client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    let head = client.read_until("one").await;
    assert!(head.contains("x-accel-buffering: no") && head.contains("content-type: text/event-stream"), "{head}");
    assert!(!head.contains("two"));
    endpoint.release(1);
    let next = client.read_until("two").await;
    assert!(!next.contains("DONE"));
    endpoint.release(1);
    client.read_until("[DONE]").await;
    app.finish().await;
}

#[actix_web::test]
async fn what_is_wrong_with_a_request_is_named() {
    let app = TestApp::with(|config| config.server.max_body_bytes = 1000).await;
    let check = async |body: &str, expected: (u16, &str), part: &str| {
        let answer = app.send(Method::POST, CHAT, &[], body).await;
        assert_eq!(answer.error(), (expected.0, expected.1.to_owned()));
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(part), "{message}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert!(answer.header("x-request-id").is_some());
    };
    check("", (400, "invalid_request"), "not a JSON object").await;
    check("{\"model\":", (400, "invalid_request"), "EOF").await;
    check("[]", (400, "invalid_request"), "not a JSON object").await;
    check("{}", (400, "invalid_request"), "`model` is missing").await;
    check("{\"model\":1}", (400, "invalid_request"), "`model` must be a string").await;
    check(&format!("{{\"model\":\"{}\"}}", "x".repeat(2000)), (413, "request_too_large"), "1000 bytes").await;
    check("{\"model\":\"nobody-has-it\"}", (404, "model_not_found"), "`nobody-has-it`").await;
    app.finish().await;
}

#[actix_web::test]
async fn paths_and_methods_that_are_not_there_get_an_error_of_the_same_form() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/v1/nothing").await.error(), (404, "not_found".to_owned()));
    assert_eq!(app.get(CHAT).await.error(), (405, "method_not_allowed".to_owned()));
    assert_eq!(app.get("/api/endpoints/not-an-id").await.error(), (404, "endpoint_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn headers_and_bodies_that_are_too_long_or_cut_off_hurt_nobody() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let long = "x".repeat(64 * 1024);
    let answer = app.send(Method::POST, CHAT, &[("x-long", &long)], "{\"model\":\"m\"}").await;
    assert_eq!(answer.error(), (400, "invalid_request".to_owned()));
    assert!(answer.text().contains("`x-long` has 65536 bytes"), "{}", answer.text());
    let half = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":";
    drop(RawClient::send(app.address, half).await);
    let chunked = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let answer = RawClient::send(app.address, chunked).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    assert_eq!(endpoint.counts().arrived, 1);
    app.finish().await;
}

#[actix_web::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let app = TestApp::start().await;
    let check = async |sent: Option<&str>, kept: bool| {
        let headers: Vec<_> = sent.iter().map(|id| ("x-request-id", *id)).collect();
        let answer = app.send(Method::GET, "/health", &headers, "").await;
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert_eq!(sent == Some(id.as_str()), kept, "{sent:?} became {id}");
    };
    check(Some("my-request-17"), true).await;
    check(Some("has a space"), false).await;
    check(Some(&"x".repeat(129)), false).await;
    check(None, false).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_error_of_the_endpoint_is_the_clients_answer() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|_| json_answer(422, "{\"error\":\"of the endpoint\"}"));
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (422, "{\"error\":\"of the endpoint\"}"));
    assert_eq!(answer.header("x-leaseway-endpoint"), Some("a"));
    let view = app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 1).await;
    assert_eq!((&view["status"], &view["failed_requests"]), (&json!("online"), &json!(1)));
    assert_eq!(view["last_error"], json!(null), "a 4xx does not count against the endpoint");
    app.finish().await;
}

#[actix_web::test]
async fn a_redirect_is_not_followed_and_shows_no_address() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let url = endpoint.url();
    endpoint.script(move |_| {
        let head = format!("HTTP/1.1 307 X\r\nlocation: {url}/elsewhere\r\ncontent-length: 0\r\n\r\n");
        vec![Step::Send(head)]
    });
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (307, None));
    assert_eq!(endpoint.counts().arrived, 1);
    app.finish().await;
}

#[actix_web::test]
async fn no_answer_is_an_error_that_names_the_endpoint_but_not_its_address() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("gpu-1", &endpoint, 1).await;
    endpoint.script(|_| vec![Step::Close]);
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!(answer.error(), (502, "upstream_error".to_owned()));
    assert!(answer.text().contains("`gpu-1`"), "{}", answer.text());
    assert!(!answer.text().contains(&endpoint.address.to_string()), "{}", answer.text());
    app.until_endpoint(&id, "counted", |endpoint| endpoint["failed_requests"] == 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_nobodys_failure() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|received| [polite(received), vec![Step::Close]].concat());
    for _ in 0..4 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    assert_eq!(endpoint.counts().arrived, 4);
    app.until_counted(&id, 4, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_request_on_which_the_endpoint_closes_a_kept_connection_is_not_sent_to_it_again() {
    let app = TestApp::start().await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let id = app.register_scored("bad", &bad, 2).await;
    app.register_scored("good", &good, 1).await;
    // So many connections carry one request only, as long as the endpoint is new.
    for _ in 0..300 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("bad"));
    }
    bad.script(|_| vec![Step::Close]);
    assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("good"));
    assert_eq!(bad.counts().arrived, 301, "as many as leases");
    app.until_counted(&id, 301, 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_answer_of_http_1_0_ends_with_its_connection() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let list = "HTTP/1.0 200 OK\r\n\r\n{\"data\":[{\"id\":\"m\"}]}";
    endpoint.do_always(&[Step::Send(list.to_owned()), Step::Close]);
    let id = app.register("a", &endpoint, 1).await;
    let answer = |content_type: &'static str, body: String| {
        move |_: &_| {
            let head = format!("HTTP/1.0 200 OK\r\ncontent-type: {content_type}\r\n\r\n");
            vec![Step::Send(head + &body), Step::Close]
        }
    };
    let hi = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    endpoint.script(answer("application/json", "{\"whole\":1}".to_owned()));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.text(), "{\"whole\":1}");
    endpoint.script(answer("text/event-stream", [hi, FINISH, DONE].concat()));
    assert_eq!(app.post(CHAT, &chat("m", true)).await.text(), [hi, FINISH, DONE].concat());
    endpoint.script(answer("text/event-stream", hi.to_owned()));
    let text = RawClient::post(app.address, CHAT, &chat("m", true)).await.read_to_end().await;
    assert!(text.contains("Hi") && text.contains("\"error\""), "no sign of completeness, but: {text}");
    app.until_endpoint(&id, "counted", |endpoint| endpoint["failed_requests"] == 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_answer_that_cannot_be_framed_is_a_failure_of_the_endpoint() {
    let app = TestApp::start().await;
    let (odd, good) = (FakeEndpoint::start(&["m", "n"]).await, FakeEndpoint::start(&["m"]).await);
    let id = app.register_scored("odd", &odd, 2).await;
    app.register_scored("good", &good, 1).await;
    let body = "{\"lost\":1}";
    let answers = [
        format!("\r\n{body}"),
        format!("transfer-encoding: identity\r\n\r\n{body}"),
        format!("content-length: 10\r\nupgrade: websocket\r\n\r\n{body}"),
        format!("content-length: 10\r\ntransfer-encoding: chunked\r\n\r\na\r\n{body}\r\n0\r\n\r\n"),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        odd.script(move |_| vec![Step::Send(format!("HTTP/1.1 200 OK\r\n{answer}")), Step::Close]);
        let failed = app.post(CHAT, &chat("n", false)).await;
        assert_eq!(failed.error(), (502, "upstream_error".to_owned()), "answer {number}");
        app.until_counted(&id, number as u64 + 1, number as u64 + 1).await;
    }
    odd.script(|_| vec![Step::Send("HTTP/1.1 200 OK\r\n\r\n{\"lost\":1}".to_owned()), Step::Close]);
    assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("good"));
    app.finish().await;
}

#[actix_web::test]
async fn no_answer_ever_reaches_another_request() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let arrived = AtomicUsize::new(0);
    let stray = || vec![Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray".to_owned())];
    endpoint.script(move |_| match arrived.fetch_add(1, Ordering::Relaxed) {
        2 => [json_answer(200, "3"), stray()].concat(),
        0 => [vec![Step::Send("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned()), Step::Gate], json_answer(200, "1")]
            .concat(),
        number => json_answer(200, &(number + 1).to_string()),
    });
    assert_eq!(app.post(CHAT, &chat("m", false)).await.error(), (502, "upstream_error".to_owned()));
    endpoint.release(1);
    for number in 2..6 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.text(), number.to_string());
    }
    app.finish().await;
}

#[actix_web::test]
async fn an_answer_without_a_body_ends_its_lease() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    for head in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
        endpoint.script(move |_| vec![Step::Send(head.to_owned())]);
        let answer = app.post(CHAT, &chat("m", false)).await;
        assert!(answer.status.is_success() && answer.body.is_empty());
    }
    endpoint.script(|_| stream_answer(&[]));
    assert!(app.post(CHAT, &chat("m", true)).await.body.is_empty());
    app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 3).await;
    app.finish().await;
}

#[actix_web::test]
async fn the_models_are_those_of_online_endpoints() {
    let (app, a, b) =
        (TestApp::start().await, FakeEndpoint::start(&["m", "n"]).await, FakeEndpoint::start(&["n/o"]).await);
    assert_eq!(app.get("/v1/models").await.json(), json!({ "object": "list", "data": [] }));
    app.register("a", &a, 1).await;
    app.register("b", &b, 1).await;
    let list = app.get("/v1/models").await.json();
    let ids: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["m", "n", "n/o"]);
    let one = app.get("/v1/models/n/o").await.json();
    assert_eq!((&one["id"], &one["object"]), (&json!("n/o"), &json!("model")));
    assert!(one["created"].is_i64() && one["owned_by"].is_string());
    assert_eq!(app.get("/v1/models/x").await.error(), (404, "model_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn pages_of_other_sites_may_not_change_endpoints() {
    let app = TestApp::start().await;
    let body = json!({ "name": "a", "base_url": "http://127.0.0.1:9" }).to_string();
    let host = app.address.to_string();
    let own = format!("http://{host}");
    for (origin, status) in [("http://evil.example", 403), ("null", 403), (own.as_str(), 201)] {
        let headers = [("origin", origin), ("content-type", "text/plain")];
        let answer = app.send(Method::POST, "/api/endpoints", &headers, &body).await;
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
    }
    app.finish().await;
}

#[actix_web::test]
async fn a_request_body_that_stops_coming_is_not_waited_for() {
    let app = TestApp::with(|config| config.upstream.idle_timeout = Duration::from_millis(300)).await;
    let half = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":";
    let answer = RawClient::send(app.address, half).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"request_timeout\""), "{answer}");
    app.finish().await;
}

#[actix_web::test]
async fn the_query_passes() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    app.post("/v1/chat/completions?api-version=1&x=%20", &chat("m", false)).await;
    assert_eq!(endpoint.received()[0].path, "/v1/chat/completions?api-version=1&x=%20");
    app.finish().await;
}

#[actix_web::test]
async fn a_large_body_passes_whole() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let body = json!({ "model": "m", "input": "x".repeat(5_000_000) }).to_string();
    endpoint.script(|received| match received.body.len() {
        0..5_000_000 => json_answer(500, "{}"),
        _ => polite(received),
    });
    assert_eq!(app.send(Method::POST, "/v1/embeddings", &[], &body).await.status, 200);
    assert!(endpoint.received().pop().is_some_and(|received| received.body == body));
    app.finish().await;
}
