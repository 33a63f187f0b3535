//! Endpoints that are still loading their model, and the requests that wait for them.

use std::time::Duration;

use futures_util::future::{join, join_all};

use crate::support::fake_endpoint::LOADING;
use crate::support::{FakeEndpoint, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Registers an endpoint that is loading. Returns its id.
async fn register_loading(app: &TestApp, endpoint: &FakeEndpoint, path: &str) -> String {
    endpoint.page_with(path, 503, LOADING);
    let body = serde_json::json!({ "name": "a", "base_url": endpoint.url(), "kind": "llamacpp" });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "loading", |endpoint| endpoint["status"] == "loading").await;
    id
}

#[actix_web::test]
async fn requests_wait_for_an_endpoint_that_is_loading_and_are_served_when_it_is_ready() {
    // Newer versions of llama.cpp list the model while they load it, older ones do not.
    for path in ["/health", "/v1/models"] {
        let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
        register_loading(&app, &endpoint, path).await;
        assert_eq!(app.get("/v1/models").await.json()["data"].as_array().map(Vec::len), Some(0));
        let mut viewer = app.viewer().await;
        let question = chat("m", false);
        let requests = join_all((0..2).map(|_| app.post(CHAT, &question)));
        let ready = async {
            viewer.until_depth(2, 0).await;
            endpoint.page("/health", "{\"status\":\"ok\"}");
            endpoint.list_models(&["m"]);
        };
        let (answers, ()) = soon("the answers", join(requests, ready)).await;
        for answer in &answers {
            assert_eq!((answer.status.as_u16(), answer.header("x-queue-status")), (200, Some("queued")));
        }
        app.finish().await;
    }
}

#[actix_web::test]
async fn the_wait_for_a_loading_endpoint_is_bounded() {
    let app = TestApp::with(|config| {
        config.queue.warm_up = Duration::from_secs(1);
        config.queue.max_waiting = 1;
    })
    .await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    register_loading(&app, &endpoint, "/health").await;
    assert_eq!(app.post(CHAT, &chat("x", false)).await.error(), (404, "model_not_found".to_owned()));
    let mut viewer = app.viewer().await;
    let question = chat("m", false);
    let second = async {
        viewer.until_depth(1, 0).await;
        app.post(CHAT, &question).await
    };
    let (first, second) = join(app.post(CHAT, &question), second).await;
    assert_eq!(first.error(), (503, "warming_up".to_owned()));
    assert_eq!(first.header("retry-after"), Some("30"), "the probe interval");
    assert_eq!(second.error(), (429, "queue_full".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_loading_endpoint_gets_nothing_while_another_serves() {
    let (app, loading, ready) =
        (TestApp::start().await, FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    register_loading(&app, &loading, "/health").await;
    app.register("b", &ready, 1).await;
    for _ in 0..3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.header("x-leaseway-endpoint"), Some("b"));
    }
    assert_eq!(loading.counts().arrived, 0);
    app.finish().await;
}
