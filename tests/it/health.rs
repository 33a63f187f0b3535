//! What is believed of an endpoint's health, and what is found out about it.

use std::time::Duration;

use awc::http::Method;
use futures_util::future::{join, join_all};
use leaseway::domain::endpoint::EndpointDefinition;
use serde_json::{Value, json};

use crate::support::fake_endpoint::{DONE, LOADING, STREAM_HEAD, chunk, content, json_answer};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

const LIST: &str = "/v1/models";

/// Pages by which kinds are told apart.
const KIND_PAGES: [&str; 7] =
    ["/api/system", "/api/tags", "/props", "/get_model_info", "/api/v0/models", "/api/v1/models", "/version"];

/// Registers an endpoint and does not wait for it. Returns its id.
async fn register(app: &TestApp, body: &Value) -> String {
    app.post("/api/endpoints", body).await.json()["id"].as_str().expect("an id").to_owned()
}

#[actix_web::test]
async fn an_endpoint_that_lists_its_models_is_online_before_its_kind_is_found_out() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    KIND_PAGES.iter().for_each(|page| endpoint.hold_page(page));
    let id = app.register("a", &endpoint, 1).await;
    assert_eq!(app.get(&format!("/api/endpoints/{id}")).await.json()["kind"], "auto");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    endpoint.page("/version", "{\"version\":\"0.11\"}");
    KIND_PAGES.iter().for_each(|page| endpoint.let_page(page));
    app.until_endpoint(&id, "of a kind", |endpoint| endpoint["kind"] == "vllm").await;
    app.finish().await;
}

#[actix_web::test]
async fn a_busy_engine_stays_online_through_a_change_that_does_not_change_the_server() {
    let app = TestApp::with(|config| {
        config.health.interval = Duration::from_millis(50);
        config.health.timeout = Duration::from_millis(200);
    })
    .await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    endpoint.script(|_| {
        let pieces = (0..6).flat_map(|number| [Step::Gate, Step::Send(chunk(&content(&format!("<{number}>"))))]);
        let end = [Step::Send(chunk(DONE)), Step::Send(chunk(""))];
        std::iter::once(Step::Send(STREAM_HEAD.to_owned())).chain(pieces).chain(end).collect()
    });
    let id = app.register("a", &endpoint, 2).await;
    let mut client = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    endpoint.release(1);
    client.read_until("<0>").await;
    let path = format!("/api/endpoints/{id}");
    let changed = app.send(Method::PUT, &path, &[], "{\"capability_score\":7}").await;
    assert_eq!((changed.status.as_u16(), &changed.json()["status"]), (200, &json!("online")));
    endpoint.hold_page(LIST);
    let asked = endpoint.page_asked(LIST);
    for number in 1..6 {
        // Each probe is sent, and something is heard before its time is up.
        endpoint.until_page_asked(LIST, asked + number).await;
        endpoint.release(1);
        client.read_until(&format!("<{number}>")).await;
        assert_eq!(app.get(&path).await.json()["status"], "online");
    }
    client.read_until("[DONE]").await;
    endpoint.let_page(LIST);
    app.until_counted(&id, 1, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn those_who_wait_for_a_loading_endpoint_outlast_a_failed_probe() {
    let app = TestApp::with(|config| config.health.failures_to_offline = 3).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    endpoint.page_with("/health", 503, LOADING);
    let id = register(&app, &json!({ "name": "a", "base_url": endpoint.url(), "kind": "llamacpp" })).await;
    app.until_endpoint(&id, "loading", |endpoint| endpoint["status"] == "loading").await;
    let mut viewer = app.viewer().await;
    let ready = async {
        viewer.until_depth(1, 0).await;
        endpoint.page_with(LIST, 500, "{}");
        let failing = app.until_endpoint(&id, "failing", |endpoint| endpoint["last_error"].is_string()).await;
        assert_eq!(failing["status"], "loading");
        endpoint.page("/health", "{}");
        endpoint.list_models(&["m"]);
    };
    let question = chat("m", false);
    let (answer, ()) = join(app.post(CHAT, &question), ready).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    app.finish().await;
}

#[actix_web::test]
async fn after_a_restart_a_model_may_be_there_until_every_first_probe_is_over() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["old"]).await);
    app.register("a", &endpoint, 1).await;
    let folder = app.restartable().await;
    endpoint.list_models(&["new"]);
    endpoint.hold_page(LIST);
    let app = TestApp::start_in(folder, |_| {}).await;
    let mut viewer = app.viewer().await;
    let probed = async {
        viewer.until_depth(1, 0).await;
        endpoint.let_page(LIST);
    };
    let question = chat("new", false);
    let (answer, ()) = join(app.post(CHAT, &question), probed).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(app.post(CHAT, &chat("old", false)).await.error(), (404, "model_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_model_that_an_absent_endpoint_of_the_file_is_to_serve_is_not_unknown() {
    let absent = FakeEndpoint::start(&[]).await;
    let url = absent.url();
    drop(absent);
    let app = TestApp::with(|config| {
        let allowed_models = vec!["m".to_owned()];
        config.endpoints = vec![EndpointDefinition { allowed_models, ..EndpointDefinition::new("a", url) }];
    })
    .await;
    app.until("/api/endpoints", "offline", |list| list[0]["status"] == "offline").await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.error(), (503, "no_endpoint_online".to_owned()));
    assert_eq!(app.post(CHAT, &chat("x", false)).await.error(), (404, "model_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_probe_that_is_wanted_while_another_is_on_its_way_is_sent_after_it() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.hold_page(LIST);
    let asked = endpoint.page_asked(LIST);
    app.send(Method::PUT, &format!("/api/endpoints/{id}"), &[], "{}").await;
    endpoint.until_page_asked(LIST, asked + 1).await;
    endpoint.script(|_| json_answer(500, "{}"));
    app.post(CHAT, &chat("m", false)).await;
    app.until_counted(&id, 1, 1).await;
    endpoint.let_page(LIST);
    endpoint.until_page_asked(LIST, asked + 2).await;
    app.finish().await;
}

#[actix_web::test]
async fn slots_that_are_left_out_are_those_that_the_engine_tells() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    endpoint.page(LIST, "{\"data\":[{\"id\":\"m\",\"owned_by\":\"llamacpp\"}]}");
    endpoint.page("/props", "{\"total_slots\":3,\"default_generation_settings\":{}}");
    let id = register(&app, &json!({ "name": "a", "base_url": endpoint.url() })).await;
    let slots = |count: u32| move |endpoint: &Value| endpoint["max_concurrency"] == count;
    app.until_endpoint(&id, "of three slots", slots(3)).await;
    for (given, expected) in [("2", 2), ("null", 3)] {
        let change = format!("{{\"max_concurrency\":{given}}}");
        let changed = app.send(Method::PUT, &format!("/api/endpoints/{id}"), &[], &change).await.json();
        assert_eq!(changed["max_concurrency"], expected, "{given}");
    }
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let question = chat("m", false);
    let four = join_all((0..4).map(|_| app.post(CHAT, &question)));
    let served = async {
        viewer.until_depth(1, 3).await;
        endpoint.release(4);
    };
    let (answers, ()) = join(four, served).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    endpoint.page("/props", "{\"total_slots\":5,\"default_generation_settings\":{}}");
    let app = TestApp::start_in(app.restartable().await, |_| {}).await;
    app.until_endpoint(&id, "of five slots", slots(5)).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_engine_of_another_kind_does_not_have_the_slots_of_the_old_one() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    endpoint.page(LIST, "{\"data\":[{\"id\":\"m\",\"owned_by\":\"llamacpp\"}]}");
    endpoint.page("/props", "{\"total_slots\":4,\"default_generation_settings\":{}}");
    let id = register(&app, &json!({ "name": "a", "base_url": endpoint.url() })).await;
    let slots = |count: u32| move |endpoint: &Value| endpoint["max_concurrency"] == count;
    app.until_endpoint(&id, "of four slots", slots(4)).await;
    let path = format!("/api/endpoints/{id}");
    let changed = app.send(Method::PUT, &path, &[], "{\"kind\":\"sglang\"}").await.json();
    assert_eq!(changed["max_concurrency"], 1, "the operator says that it is another engine");
    app.send(Method::PUT, &path, &[], "{\"kind\":null}").await;
    app.until_endpoint(&id, "of four slots again", slots(4)).await;
    endpoint.page(LIST, "{\"data\":[{\"id\":\"m\",\"owned_by\":\"vllm\"}]}");
    let synced = app.post(&format!("{path}/sync"), &json!({})).await.json();
    assert_eq!((&synced["kind"], &synced["max_concurrency"]), (&json!("vllm"), &json!(1)));
    app.finish().await;
}

#[actix_web::test]
async fn an_engine_that_closed_its_connections_has_its_models_read_again() {
    let (app, mut endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    let asked = endpoint.page_asked(LIST);
    endpoint.list_models(&["m", "new"]);
    // Only after some hundred good answers does Leaseway keep each connection.
    for _ in 0..300 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    assert_eq!(endpoint.page_asked(LIST), asked, "nothing has happened so far");
    endpoint.kill().await;
    endpoint.revive();
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_endpoint(&id, "read again", |endpoint| endpoint["models"] == json!(["m", "new"])).await;
    app.finish().await;
}

#[actix_web::test]
async fn an_answer_of_another_model_has_the_models_read_again() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.list_models(&["new"]);
    endpoint.script(|_| json_answer(200, "{\"id\":\"x\",\"model\":\"new\",\"choices\":[],\"usage\":null}"));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_endpoint(&id, "read again", |endpoint| endpoint["models"] == json!(["new"])).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.error(), (404, "model_not_found".to_owned()));
    app.finish().await;
}
