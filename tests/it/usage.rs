//! Usage: Leaseway asks for it in the client's place, hides it from clients that did not ask, and counts it.

use serde_json::{Value, json};

use crate::support::fake_endpoint::{DONE, FINISH, USAGE, content, json_answer, polite, stream_answer};
use crate::support::{FakeEndpoint, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

/// Waits until `count` requests of an endpoint have been measured, and returns their output tokens.
async fn counted(app: &TestApp, id: &str, requests: u64, is_estimated: bool) -> u64 {
    let path = format!("/api/endpoints/{id}/model-tps");
    let speeds = app.until(&path, "a speed", |speeds| speeds[0]["request_count"] == requests).await;
    assert!(speeds[0]["tps"].as_f64().is_some_and(|tps| tps > 0.0));
    assert_eq!(speeds[0]["api_kind"], "chat_completions");
    assert_eq!(speeds[0]["tokens_estimated"], is_estimated);
    speeds[0]["total_output_tokens"].as_u64().expect("a count")
}

#[actix_web::test]
async fn usage_is_asked_for_hidden_and_counted() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    let answer = app.post(CHAT, &chat("m", true)).await;
    assert_eq!(answer.text(), [&content("Hel"), &content("lo"), FINISH, DONE].concat());
    assert_eq!(endpoint.received()[0].json()["stream_options"], json!({ "include_usage": true }));
    assert_eq!(counted(&app, &id, 1, false).await, 5);
    app.post(CHAT, &chat("m", false)).await;
    assert_eq!(counted(&app, &id, 2, false).await, 5 + 7);
    app.finish().await;
}

#[actix_web::test]
async fn who_asks_for_usage_gets_it() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let mut question = chat("m", true);
    question["stream_options"] = json!({ "include_usage": true });
    let answer = app.post(CHAT, &question).await;
    assert!(answer.text().contains(USAGE));
    assert_eq!(endpoint.received()[0].body, question.to_string(), "the body passes unchanged");
    app.finish().await;
}

#[actix_web::test]
async fn an_endpoint_that_does_not_take_the_question_is_asked_without_and_remembered() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.script(|received| match received.json()["stream_options"] {
        Value::Null => stream_answer(&[content("Hel"), content("lo"), FINISH.to_owned(), DONE.to_owned()]),
        _ => json_answer(400, "{\"error\":\"stream_options?\"}"),
    });
    for _ in 0..2 {
        let answer = app.post(CHAT, &chat("m", true)).await;
        assert_eq!(answer.text(), [&content("Hel"), &content("lo"), FINISH, DONE].concat());
    }
    assert_eq!(endpoint.counts().arrived, 3, "twice for the first request, once for the second");
    assert_eq!(endpoint.counts().most_in_flight, 1);
    assert_eq!(counted(&app, &id, 2, true).await, 4, "content chunks are counted where there is no usage");
    app.finish().await;
}

#[actix_web::test]
async fn llama_cpp_is_not_asked_and_its_timings_reach_the_client() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let body = json!({ "name": "a", "base_url": endpoint.url(), "kind": "llamacpp" });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    let last = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"timings\":{\"prompt_n\":3,\"predicted_n\":9}}\n\n";
    let events = [content("Hel"), last.to_owned(), DONE.to_owned()];
    let answer = events.clone();
    endpoint.script(move |_| stream_answer(&answer));
    assert_eq!(app.post(CHAT, &chat("m", true)).await.text(), events.concat());
    assert_eq!(endpoint.received()[0].json()["stream_options"], json!(null));
    assert_eq!(counted(&app, &id, 1, false).await, 9);
    app.finish().await;
}

#[actix_web::test]
async fn of_the_chunk_that_was_asked_for_everything_else_reaches_the_client() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5},"timings":{"predicted_n":5}}"#;
    endpoint.script(move |_| stream_answer(&[content("Hel"), format!("{usage}\n\n"), DONE.to_owned()]));
    let left = "data: {\"choices\":[],\"timings\":{\"predicted_n\":5}}\n\n";
    assert_eq!(app.post(CHAT, &chat("m", true)).await.text(), [&content("Hel"), left, DONE].concat());
    app.finish().await;
}

#[actix_web::test]
async fn a_400_that_is_the_clients_own_is_not_remembered() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    // The plain request does not succeed either, so nothing is learnt of the option.
    endpoint.script(|received| match received.json()["stream_options"] {
        Value::Null => json_answer(422, "{\"error\":\"no messages\"}"),
        _ => json_answer(400, "{\"error\":\"no messages\"}"),
    });
    assert_eq!(app.post(CHAT, &chat("m", true)).await.status, 422);
    endpoint.script(|_| json_answer(400, "{\"error\":\"no messages\"}"));
    let answer = app.post(CHAT, &chat("m", true)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (400, "{\"error\":\"no messages\"}"));
    endpoint.script(polite);
    app.post(CHAT, &chat("m", true)).await;
    let last = endpoint.received().pop().expect("it arrived");
    assert_eq!(last.json()["stream_options"], json!({ "include_usage": true }));
    app.finish().await;
}

#[actix_web::test]
async fn a_second_question_counts_as_an_attempt() {
    for (max_attempts, expected) in [(1, [1, 0]), (2, [2, 0]), (3, [2, 1])] {
        let app = TestApp::with(|config| config.upstream.max_attempts = max_attempts).await;
        let (broken, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
        app.register_scored("broken", &broken, 2).await;
        app.register_scored("good", &good, 1).await;
        broken.script(|received| match received.json()["stream_options"] {
            Value::Null => vec![Step::Reset],
            _ => json_answer(400, "{\"error\":\"stream_options?\"}"),
        });
        let answer = app.post(CHAT, &chat("m", true)).await;
        assert_eq!(answer.status, if max_attempts == 3 { 200 } else { 502 });
        assert_eq!([broken.counts().arrived, good.counts().arrived], expected, "of {max_attempts}");
        let last = broken.received().pop().expect("it arrived");
        assert_eq!(last.json()["stream_options"], Value::Null, "the last time allowed, nothing is asked for");
        app.finish().await;
    }
}

#[actix_web::test]
async fn an_endpoint_without_measurements_has_none() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    assert_eq!(app.get(&format!("/api/endpoints/{id}/model-tps")).await.json(), json!([]));
    let unknown = uuid::Uuid::nil();
    assert_eq!(app.get(&format!("/api/endpoints/{unknown}/model-tps")).await.status, 404);
    app.finish().await;
}
