//! Registration, health, models and kinds.

use std::time::Duration;

use awc::http::Method;
use leaseway::domain::endpoint::EndpointDefinition;
use serde_json::{Value, json};

use crate::support::fake_endpoint::json_answer;
use crate::support::{FakeEndpoint, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

fn body(name: &str, base_url: &str) -> Value {
    json!({ "name": name, "base_url": base_url })
}

#[actix_web::test]
async fn an_endpoint_is_registered_shown_changed_and_removed() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m", "n"]).await);
    let answer = app.post("/api/endpoints", &body("a", &endpoint.url())).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["status"], "pending");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/endpoints/{id}");
    let view = app.until_endpoint(&id, "online", |endpoint| endpoint["status"] == "online").await;
    assert_eq!(view["models"], json!(["m", "n"]));
    assert_eq!(view["source"], "api");
    app.until_endpoint(&id, "of a kind", |endpoint| endpoint["kind"] == "openai_compatible").await;
    assert!(view["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0));
    assert!(view["last_seen"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(app.get("/api/endpoints").await.json().as_array().map(Vec::len), Some(1));

    let change = json!({ "name": "b", "max_concurrency": 3, "capability_score": 10, "models": ["n"] });
    let changed = app.send(Method::PUT, &path, &[], &change.to_string()).await.json();
    assert_eq!((&changed["name"], &changed["max_concurrency"]), (&json!("b"), &json!(3)));
    assert_eq!((&changed["capability_score"], &changed["models"]), (&json!(10), &json!(["n"])));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.error(), (404, "model_not_found".to_owned()));
    assert_eq!(app.post(CHAT, &chat("n", false)).await.header("x-leaseway-endpoint"), Some("b"));
    let reset = "{\"capability_score\":null,\"models\":null,\"max_concurrency\":null,\"kind\":null}";
    let reset = app.send(Method::PUT, &path, &[], reset).await.json();
    assert_eq!((&reset["capability_score"], &reset["name"]), (&Value::Null, &json!("b")));
    assert_eq!((&reset["models"], &reset["max_concurrency"]), (&json!(["m", "n"]), &json!(1)));

    assert_eq!(app.send(Method::DELETE, &path, &[], "").await.status, 204);
    assert_eq!(app.get(&path).await.status, 404);
    assert_eq!(app.send(Method::DELETE, &path, &[], "").await.status, 404);
    assert_eq!(app.post(CHAT, &chat("n", false)).await.error(), (404, "model_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_registration_that_makes_no_sense_is_refused_with_the_fields_name() {
    let app = TestApp::start().await;
    let check = async |body: &str, param: &str| {
        let answer = app.send(Method::POST, "/api/endpoints", &[], body).await;
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{body}");
        let error = &answer.json()["error"];
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{body}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(param)));
    };
    check("{\"base_url\":\"http://x\"}", "name").await;
    check("{\"name\":\"a\"}", "base_url").await;
    check("{\"name\":\"\",\"base_url\":\"http://x\"}", "name").await;
    check("{\"name\":\"a\",\"base_url\":\"ftp://x\"}", "base_url").await;
    check("{\"name\":\"a\",\"base_url\":\"nowhere\"}", "base_url").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"kind\":\"magic\"}", "kind").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"max_concurrency\":0}", "max_concurrency").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"max_concurrency\":\"2\"}", "max_concurrency").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"max_concurrency\":1.5}", "max_concurrency").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"capability_score\":10001}", "capability_score").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"max_concurency\":1}", "max_concurency").await;
    check("{\"name\":\"a\",\"base_url\":\"http://x\",\"api_key\":\"a\\nb\"}", "api_key").await;
    check("not JSON", "").await;
    app.finish().await;
}

#[actix_web::test]
async fn names_and_addresses_are_unique() {
    let app = TestApp::start().await;
    assert_eq!(app.post("/api/endpoints", &body("a", "http://127.0.0.1:9/")).await.status, 201);
    let second = app.post("/api/endpoints", &body("b", "http://127.0.0.1:10")).await.json();
    for taken in [body("a", "http://127.0.0.1:11"), body("c", "http://127.0.0.1:9/v1")] {
        assert_eq!(app.post("/api/endpoints", &taken).await.error(), (409, "endpoint_exists".to_owned()));
    }
    let path = format!("/api/endpoints/{}", second["id"].as_str().expect("an id"));
    for taken in ["{\"name\":\"a\"}", "{\"base_url\":\"http://127.0.0.1:9\"}"] {
        assert_eq!(app.send(Method::PUT, &path, &[], taken).await.error(), (409, "endpoint_exists".to_owned()));
    }
    app.finish().await;
}

#[actix_web::test]
async fn registrations_that_race_for_a_name_have_one_winner() {
    let app = TestApp::start().await;
    let tries = (0..20).map(|port| {
        let body = body("a", &format!("http://127.0.0.1:{}", 100 + port));
        let app = &app;
        async move { app.post("/api/endpoints", &body).await.status.as_u16() }
    });
    let mut statuses = futures_util::future::join_all(tries).await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1]), (201, 409));
    app.finish().await;
}

#[actix_web::test]
async fn endpoints_and_their_models_outlive_a_restart() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 3).await;
    app.post(CHAT, &chat("m", false)).await;
    app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 1).await;
    let folder = app.restartable().await;
    let address = endpoint.address;
    drop(endpoint);
    let app = TestApp::start_in(folder, |_| {}).await;
    let view = app.until_endpoint(&id, "offline", |endpoint| endpoint["status"] == "offline").await;
    assert_eq!((&view["name"], &view["max_concurrency"]), (&json!("a"), &json!(3)));
    assert_eq!((&view["total_requests"], &view["successful_requests"]), (&json!(1), &json!(1)));
    assert!(view["last_error"].is_string() && view["latency_ms"].is_f64());
    let answer = app.post(CHAT, &chat("m", false)).await;
    assert_eq!(answer.error(), (503, "no_endpoint_online".to_owned()), "the model is still known");
    assert_eq!(answer.header("retry-after"), Some("30"));
    let _revived = FakeEndpoint::start_at(address, &["m"]).await;
    let synced = app.post(&format!("/api/endpoints/{id}/sync"), &json!({})).await.json();
    assert_eq!(synced["status"], "online");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.finish().await;
}

#[actix_web::test]
async fn an_endpoint_that_goes_and_comes_back_is_noticed_without_a_restart() {
    let app = TestApp::with(|config| config.health.interval = Duration::from_millis(50)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    let mut viewer = app.viewer().await;
    let address = endpoint.address;
    drop(endpoint);
    viewer.until("EndpointStatusChanged", |data| data["new_status"] == "offline").await;
    assert_eq!(app.get("/v1/models").await.json()["data"], json!([]));
    let revived = FakeEndpoint::start_at(address, &["m", "new"]).await;
    let change = viewer.until("EndpointStatusChanged", |data| data["new_status"] == "online").await;
    assert_eq!((&change["endpoint_id"], &change["old_status"]), (&json!(id), &json!("offline")));
    assert_eq!(app.post(CHAT, &chat("new", false)).await.status, 200);
    drop(revived);
    app.finish().await;
}

#[actix_web::test]
async fn a_server_that_answers_wrongly_is_an_error_and_no_endpoint_to_use() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    endpoint.page("/v1/models", "{\"hello\":1}");
    let answer = app.post("/api/endpoints", &body("a", &endpoint.url())).await;
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let view = app.until_endpoint(&id, "error", |endpoint| endpoint["status"] == "error").await;
    assert!(view["last_error"].as_str().is_some_and(|error| error.contains("no list of models")), "{view}");
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 404);
    app.finish().await;
}

#[actix_web::test]
async fn a_sync_reads_the_models_anew() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    endpoint.list_models(&["n"]);
    let synced = app.post(&format!("/api/endpoints/{id}/sync"), &json!({})).await.json();
    assert_eq!(synced["models"], json!(["n"]));
    assert_eq!(app.post(CHAT, &chat("n", false)).await.status, 200);
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 404);
    app.finish().await;
}

#[actix_web::test]
async fn a_request_that_comes_before_the_first_probe_waits_for_it() {
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let url = endpoint.url();
    let app = TestApp::with(|config| {
        config.endpoints = vec![EndpointDefinition::new("a", url)];
    })
    .await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    assert_eq!(app.post(CHAT, &chat("x", false)).await.status, 404);
    let endpoints = app.get("/api/endpoints").await.json();
    assert_eq!(endpoints[0]["source"], "file");
    let path = format!("/api/endpoints/{}", endpoints[0]["id"].as_str().expect("an id"));
    for method in [Method::PUT, Method::DELETE] {
        let answer = app.send(method, &path, &[], "{}").await;
        assert_eq!(answer.error(), (409, "managed_by_file".to_owned()));
        assert!(answer.text().contains("managed by the config file"));
    }
    app.finish().await;
}

#[actix_web::test]
async fn those_who_wait_are_told_when_the_last_endpoint_goes() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    let mut viewer = app.viewer().await;
    endpoint.hold();
    let question = chat("m", false);
    let requests = futures_util::future::join(app.post(CHAT, &question), app.post(CHAT, &question));
    let removal = async {
        viewer.until_depth(1, 1).await;
        assert_eq!(app.send(Method::DELETE, &format!("/api/endpoints/{id}"), &[], "").await.status, 204);
        endpoint.release(1);
    };
    let ((a, b), ()) = futures_util::future::join(requests, removal).await;
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404], "the running one goes on, the waiting one is refused");
    app.finish().await;
}

#[actix_web::test]
async fn kinds_are_found_out() {
    let models = |owner: &str| format!("{{\"data\":[{{\"id\":\"m\",\"owned_by\":\"{owner}\"}}]}}");
    let plain = models("somebody");
    let cases: [(&str, &[(&str, &str)]); 9] = [
        ("vllm", &[("/v1/models", &models("vllm"))]),
        ("llamacpp", &[("/v1/models", &models("llamacpp"))]),
        ("sglang", &[("/v1/models", &models("sglang"))]),
        ("lm_studio", &[("/v1/models", &models("organization_owner"))]),
        ("ollama", &[("/v1/models", &models("library"))]),
        ("ollama", &[("/v1/models", &plain), ("/api/tags", "{\"models\":[]}")]),
        ("xllm", &[("/v1/models", &plain), ("/api/system", "{\"xllm_version\":\"0.1.0\"}")]),
        ("sglang", &[("/v1/models", &plain), ("/get_model_info", "{\"model_path\":\"/m\"}")]),
        ("openai_compatible", &[("/v1/models", &plain), ("/version", "\"1.0\"")]),
    ];
    let app = TestApp::start().await;
    for (number, (kind, pages)) in cases.into_iter().enumerate() {
        let endpoint = FakeEndpoint::start(&[]).await;
        pages.iter().for_each(|(path, json)| endpoint.page(path, json));
        let id = app.register(&number.to_string(), &endpoint, 1).await;
        app.until_endpoint(&id, &format!("{kind} by {pages:?}"), |endpoint| endpoint["kind"] == kind).await;
    }
    app.finish().await;
}

#[actix_web::test]
async fn an_old_ollama_lists_its_models_on_its_own_page() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&[]).await);
    endpoint.page("/v1/models", "");
    endpoint.page("/api/tags", "{\"models\":[{\"name\":\"llama3:8b\"}]}");
    endpoint.script(|_| json_answer(200, "{}"));
    let answer = app.post("/api/endpoints", &body("a", &(endpoint.url() + "/missing"))).await;
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    app.until_endpoint(&id, "error", |endpoint| endpoint["status"] == "error").await;
    let path = format!("/api/endpoints/{id}");
    endpoint.page("/ollama/api/tags", "{\"models\":[{\"name\":\"llama3:8b\"}]}");
    let change = json!({ "base_url": endpoint.url() + "/ollama" });
    app.send(Method::PUT, &path, &[], &change.to_string()).await;
    let view = app.until_endpoint(&id, "of a kind", |endpoint| endpoint["kind"] == "ollama").await;
    assert_eq!((&view["models"], &view["status"]), (&json!(["llama3:8b"]), &json!("online")));
    assert_eq!(app.post(CHAT, &chat("llama3:8b", false)).await.status, 200);
    assert_eq!(endpoint.received()[0].path, "/ollama/v1/chat/completions");
    app.finish().await;
}
