//! Who may do what with which key.

use std::fs;

use awc::http::Method;
use leaseway::config::Config;
use leaseway::domain::keys::{GivenKey, KeyDefinition, KeyHash, KeyLimits, KeySource, Scope};
use serde_json::{Value, json};

use crate::support::fake_endpoint::polite;
use crate::support::{FakeEndpoint, RawClient, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-that-is-long";

/// A key that the settings define.
fn given(secret: &str, definition: KeyDefinition) -> GivenKey {
    GivenKey { definition, source: KeySource::File, hash: KeyHash::of(secret.as_bytes()), prefix: String::new() }
}

fn with_scopes(name: &str, scopes: &[Scope]) -> KeyDefinition {
    KeyDefinition { scopes: scopes.iter().copied().collect(), ..KeyDefinition::new(name) }
}

fn admin_key() -> GivenKey {
    given(ADMIN, with_scopes("root", &[Scope::Admin]))
}

/// Starts Leaseway with these keys and an admin key, which is that of the test.
async fn start(keys: Vec<GivenKey>) -> TestApp {
    let change = |config: &mut Config| config.keys = [keys, vec![admin_key()]].concat();
    let mut app = TestApp::with(change).await;
    app.key = Some(ADMIN.to_owned());
    app
}

/// Sends a request with this key.
async fn status(app: &TestApp, method: Method, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
    let bearer = key.map(|key| format!("Bearer {key}")).unwrap_or_default();
    let headers = [("authorization", bearer.as_str())];
    let answer = app.send_as(method, path, if key.is_some() { &headers } else { &[] }, body).await;
    let code = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|json| Some(json["error"]["code"].as_str()?.to_owned()));
    (answer.status.as_u16(), code.unwrap_or_default())
}

/// Every route of the table: path, method, and who may use it.
fn routes() -> Vec<(String, Method, String)> {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/routes.rs")).expect("the table");
    let mut routes = Vec::new();
    for entry in table.split("at(\"").skip(1) {
        let (path, rest) = entry.split_once('"').expect("a path");
        let rest = rest.split(");\n").next().expect("an entry");
        for (name, method) in
            [("get", Method::GET), ("post", Method::POST), ("put", Method::PUT), ("delete", Method::DELETE)]
        {
            let found = rest.split(&format!("{name}(")).nth(1).and_then(|rest| rest.split(',').next());
            if let Some(access) = found {
                routes.push((path.to_owned(), method, access.to_owned()));
            }
        }
    }
    routes
}

#[actix_web::test]
async fn every_route_is_open_to_those_whose_key_has_its_scope_and_to_nobody_else() {
    let keys = Scope::ALL
        .map(|scope| given(&format!("{}-key-that-is-long", scope.as_str()), with_scopes(scope.as_str(), &[scope])));
    let app = start(keys.to_vec()).await;
    let routes = routes();
    assert!(routes.len() >= 40, "{routes:?}");
    for (pattern, method, access) in routes {
        let path = pattern
            .replace("{id}", "00000000-0000-0000-0000-000000000000")
            .replace("{id:.+}", "m")
            .replace("{path:.+}", "style.css");
        let prefixes: &[&str] = if access == "INFERENCE" { &["", "/v1"] } else { &[""] };
        for prefix in prefixes {
            let path = format!("{prefix}{path}");
            let open = access == "OPEN";
            for (key, is_valid) in [(None, false), (Some("an-unknown-key-that-is-long"), false)] {
                let (status, code) = status(&app, method.clone(), &path, key, "").await;
                let is_login = path == "/api/session";
                assert_eq!(
                    (status, code.as_str()) == (401, "invalid_api_key"),
                    !open && !is_valid,
                    "{method} {path} {key:?}: {status} {code}"
                );
                assert!(open || !is_login || status == 401);
            }
            for scope in Scope::ALL {
                let key = format!("{}-key-that-is-long", scope.as_str());
                let (status, code) = status(&app, method.clone(), &path, Some(&key), "").await;
                let is_allowed = open || scope == Scope::Admin || scope.as_str().eq_ignore_ascii_case(&access);
                assert_ne!(status, 401, "{method} {path} {key}");
                assert_eq!(
                    (status, code.as_str()) == (403, "insufficient_scope"),
                    !is_allowed,
                    "{method} {path} {key}: {status} {code}"
                );
            }
        }
    }
    app.finish().await;
}

#[actix_web::test]
async fn a_key_is_taken_from_every_header_and_goes_to_no_endpoint() {
    let app = start(vec![given("a-chat-key-that-is-long", KeyDefinition::new("chat"))]).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    let body = chat("m", false).to_string();
    // "user:a-chat-key-that-is-long"
    let basic = "Basic dXNlcjphLWNoYXQta2V5LXRoYXQtaXMtbG9uZw==";
    let good = "a-chat-key-that-is-long";
    let bearer = format!("Bearer {good}");
    for (headers, expected) in [
        (vec![("authorization", bearer.as_str())], 200),
        (vec![("x-api-key", good)], 200),
        (vec![("api-key", good)], 200),
        (vec![("authorization", basic)], 200),
        (vec![("authorization", "Bearer nothing"), ("x-api-key", "nothing"), ("api-key", good)], 200),
        (vec![("authorization", "Basic nothing")], 401),
        (vec![("authorization", "Basic dXNlcg==")], 401),
        (vec![("authorization", good)], 401),
        (vec![("cookie", "leaseway_session=nothing")], 401),
        (vec![], 401),
    ] {
        let answer = app.send_as(Method::POST, CHAT, &headers, &body).await;
        assert_eq!(answer.status, expected, "{headers:?}");
        if expected == 401 {
            assert_eq!(answer.error(), (401, "invalid_api_key".to_owned()));
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let query = app.send_as(Method::POST, &format!("{CHAT}?api_key={good}"), &[], &body).await;
    assert_eq!(query.status, 401, "never in a query");
    for received in endpoint.received() {
        let sent = format!("{received:?}");
        assert!(!sent.contains(good) && !sent.contains("dXNlcj"), "{sent}");
    }
    app.finish().await;
}

#[actix_web::test]
async fn a_key_uses_only_its_models() {
    let some = KeyDefinition { models: vec!["llama-*".to_owned(), "m".to_owned()], ..KeyDefinition::new("some") };
    let app = start(vec![given("a-key-for-some-models", some)]).await;
    let endpoint = FakeEndpoint::start(&["llama-3", "m", "secret-model"]).await;
    app.register("a", &endpoint, 1).await;
    let key = Some("a-key-for-some-models");
    let ask = async |model: &str| status(&app, Method::POST, CHAT, key, &chat(model, false).to_string()).await;
    assert_eq!(ask("llama-3").await.0, 200);
    assert_eq!(ask("m").await.0, 200);
    assert_eq!(ask("secret-model").await, (404, "model_not_found".to_owned()));
    let headers = [("x-api-key", "a-key-for-some-models")];
    let list = app.send_as(Method::GET, "/v1/models", &headers, "").await.json();
    let names: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(names, ["llama-3", "m"]);
    assert_eq!(app.send_as(Method::GET, "/v1/models/m", &headers, "").await.status, 200);
    assert_eq!(app.send_as(Method::GET, "/v1/models/secret-model", &headers, "").await.error().0, 404);
    app.finish().await;
}

#[actix_web::test]
async fn keys_are_made_changed_rotated_and_revoked_and_outlive_a_restart() {
    let mut app = TestApp::start().await;
    let made = app.post("/api/keys", &json!({ "name": "root", "scopes": ["admin"] })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let secret = made.json()["key"].as_str().expect("a key").to_owned();
    assert!(secret.starts_with("lw_") && secret.len() == 46, "{secret}");
    assert_eq!(made.json()["prefix"], secret[..8]);
    assert_eq!(
        app.get("/api/keys").await.error(),
        (401, "invalid_api_key".to_owned()),
        "keys are required from now on"
    );
    app.key = Some(secret.clone());
    let made = app
        .post("/api/keys", &json!({ "name": "chat", "models": ["m*"], "expires_at": "2100-01-01T00:00:00Z" }))
        .await
        .json();
    let path = format!("/api/keys/{}", made["id"].as_str().expect("an id"));
    let chat_key = made["key"].as_str().expect("a key").to_owned();
    let shown = app.get(&path).await.json();
    assert_eq!(
        (&shown["key"], &shown["source"], &shown["scopes"]),
        (&Value::Null, &json!("api"), &json!(["inference"]))
    );
    assert_eq!(
        (&shown["enabled"], &shown["models"], &shown["expires_at"]),
        (&json!(true), &json!(["m*"]), &json!("2100-01-01T00:00:00Z"))
    );
    assert_eq!(shown["last_used_at"], Value::Null);
    let list = async |key: &str| status(&app, Method::GET, "/v1/models", Some(key), "").await.0;
    assert_eq!(list(&chat_key).await, 200);
    assert!(app.get(&path).await.json()["last_used_at"].is_string());

    let put = async |path: &str, body: Value| {
        app.send(Method::PUT, path, &[("content-type", "application/json")], &body.to_string()).await
    };
    assert_eq!(put(&path, json!({ "enabled": false })).await.status, 200);
    assert_eq!(list(&chat_key).await, 401);
    assert_eq!(put(&path, json!({ "enabled": true, "expires_at": "2000-01-01T00:00:00Z" })).await.status, 200);
    assert_eq!(list(&chat_key).await, 401);
    assert_eq!(put(&path, json!({ "expires_at": null })).await.json()["models"], json!(["m*"]));
    assert_eq!(list(&chat_key).await, 200);

    let rotated = app.post(&format!("{path}/rotate"), &json!({ "grace_secs": 3600 })).await.json();
    let newer = rotated["key"].as_str().expect("a key").to_owned();
    assert_eq!((list(&chat_key).await, list(&newer).await), (200, 200));
    let rotated = app.post(&format!("{path}/rotate"), &json!({})).await.json();
    let newest = rotated["key"].as_str().expect("a key").to_owned();
    assert_eq!((list(&chat_key).await, list(&newer).await, list(&newest).await), (401, 401, 200));

    let folder = app.restartable().await;
    let database: Vec<u8> = fs::read_dir(folder.path())
        .expect("a folder")
        .flat_map(|file| fs::read(file.expect("a file").path()).expect("read"))
        .collect();
    for secret in [&secret, &chat_key, &newer, &newest] {
        assert!(memchr::memmem::find(&database, &secret.as_bytes()[8..]).is_none(), "a key is in the database");
    }
    let mut app = TestApp::start_in(folder, |_| {}).await;
    app.key = Some(secret.clone());
    assert_eq!(status(&app, Method::GET, "/v1/models", Some(&newest), "").await.0, 200);
    assert!(app.get(&path).await.json()["last_used_at"].is_string());
    assert_eq!(app.send(Method::DELETE, &path, &[], "").await.status, 204);
    assert_eq!(status(&app, Method::GET, "/v1/models", Some(&newest), "").await.0, 401);
    assert_eq!(app.get(&path).await.error(), (404, "key_not_found".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn what_is_wrong_with_a_key_is_said_and_nobody_locks_everybody_out() {
    let app = start(vec![]).await;
    let refused = async |body: Value, param: &str| {
        let answer = app.post("/api/keys", &body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{body}: {}",
            answer.text()
        );
    };
    refused(json!({}), "name").await;
    refused(json!({ "name": "" }), "name").await;
    refused(json!({ "name": "x".repeat(129) }), "name").await;
    refused(json!({ "name": "x", "scopes": ["everything"] }), "scopes").await;
    refused(json!({ "name": "x", "models": [""] }), "models").await;
    refused(json!({ "name": "x", "expires_at": "tomorrow" }), "expires_at").await;
    refused(json!({ "name": "x", "enabled": 1 }), "enabled").await;
    assert_eq!(app.post("/api/keys", &json!({ "name": "root" })).await.error(), (409, "key_exists".to_owned()));
    let made = app.post("/api/keys", &json!({ "name": "second", "scopes": ["admin"] })).await.json();
    let path = format!("/api/keys/{}", made["id"].as_str().expect("an id"));
    let answer = app.post(&format!("{path}/rotate"), &json!({ "grace_secs": 2_592_001 })).await;
    assert_eq!(answer.json()["error"]["param"], "grace_secs", "{}", answer.text());
    let list = app.get("/api/keys").await.json();
    let root = list.as_array().expect("a list").iter().find(|key| key["name"] == "root").expect("there");
    let managed =
        app.send(Method::DELETE, &format!("/api/keys/{}", root["id"].as_str().expect("an id")), &[], "").await;
    assert_eq!(managed.error(), (409, "managed_by_file".to_owned()));
    assert_eq!(app.send(Method::DELETE, "/api/keys/x", &[], "").await.error(), (404, "key_not_found".to_owned()));
    assert_eq!(app.send(Method::DELETE, &path, &[], "").await.status, 204, "the file has an admin");
    app.finish().await;

    let mut app = TestApp::start().await;
    let made = app.post("/api/keys", &json!({ "name": "only", "scopes": ["admin"] })).await.json();
    app.key = made["key"].as_str().map(str::to_owned);
    let path = format!("/api/keys/{}", made["id"].as_str().expect("an id"));
    assert_eq!(app.send(Method::DELETE, &path, &[], "").await.error(), (409, "last_admin".to_owned()));
    let json = [("content-type", "application/json")];
    let demoted = app.send(Method::PUT, &path, &json, r#"{"scopes":["inference"]}"#).await;
    assert_eq!(demoted.error(), (409, "last_admin".to_owned()));
    app.finish().await;
}

#[actix_web::test]
async fn a_stream_whose_key_is_revoked_ends_as_usual_and_the_next_request_is_refused() {
    let app = start(vec![]).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 1).await;
    let made = app.post("/api/keys", &json!({ "name": "chat" })).await.json();
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    endpoint.hold();
    let header = format!("authorization: Bearer {key}\r\n");
    let mut stream = RawClient::post_with(app.address, CHAT, &header, &chat("m", true)).await;
    endpoint.until("it arrives", |counts| counts.in_flight == 1).await;
    assert_eq!(app.send(Method::DELETE, &format!("/api/keys/{id}"), &[], "").await.status, 204);
    endpoint.release(1);
    stream.read_until("data: [DONE]").await;
    assert_eq!(status(&app, Method::POST, CHAT, Some(key), &chat("m", false).to_string()).await.0, 401);
    app.until("/api/load-balancer/stats", "the end", |stats| stats["total_selections"] == 1).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_session_stands_for_its_key() {
    let app = start(vec![given("a-read-key-that-is-long", with_scopes("viewer", &[Scope::Read]))]).await;
    let wrong = app
        .send_as(Method::POST, "/api/session", &[("content-type", "application/json")], r#"{"key":"nothing"}"#)
        .await;
    assert_eq!(wrong.error(), (401, "invalid_api_key".to_owned()));
    let login = async |key: &str| {
        let body = json!({ "key": key }).to_string();
        let answer = app.send_as(Method::POST, "/api/session", &[("content-type", "application/json")], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("set-cookie").expect("a cookie").to_owned()
    };
    let set = login("a-read-key-that-is-long").await;
    for part in ["leaseway_session=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("a-read-key"), "{set}");
    let cookie = set.split(';').next().expect("a value").to_owned();
    let with =
        async |method: Method, path: &str, cookie: &str| app.send_as(method, path, &[("cookie", cookie)], "").await;
    let session = with(Method::GET, "/api/session", &cookie).await.json();
    assert_eq!(session, json!({ "keys_required": true, "name": "viewer", "scopes": ["read"] }));
    assert_eq!(with(Method::GET, "/api/endpoints", &format!("a=b; {cookie}")).await.status, 200);
    assert_eq!(with(Method::DELETE, "/api/keys/x", &cookie).await.error(), (403, "insufficient_scope".to_owned()));
    let gone = with(Method::DELETE, "/api/session", &cookie).await;
    assert!(gone.header("set-cookie").expect("a cookie").contains("Max-Age=0"), "{gone:?}");

    let made = app.post("/api/keys", &json!({ "name": "other", "scopes": ["read"] })).await.json();
    let set = login(made["key"].as_str().expect("a key")).await;
    let cookie = set.split(';').next().expect("a value").to_owned();
    assert_eq!(with(Method::GET, "/api/endpoints", &cookie).await.status, 200);
    app.send(Method::DELETE, &format!("/api/keys/{}", made["id"].as_str().expect("an id")), &[], "").await;
    assert_eq!(with(Method::GET, "/api/endpoints", &cookie).await.error().0, 401, "revoking the key ends the session");
    app.finish().await;
}

#[actix_web::test]
async fn limits_of_a_key_hold_for_real_requests_and_are_told() {
    let limits = KeyLimits { requests_per_minute: Some(2), tokens_per_minute: Some(10_000), ..KeyLimits::default() };
    let limited = KeyDefinition { limits, ..KeyDefinition::new("limited") };
    let capped = KeyLimits { max_concurrency: Some(1), max_waiting: Some(1), ..KeyLimits::default() };
    let capped = KeyDefinition { limits: capped, ..KeyDefinition::new("capped") };
    let limits = KeyLimits { tokens_per_day: Some(10), ..KeyLimits::default() };
    let spent = KeyDefinition { limits, ..KeyDefinition::new("spent") };
    let (one, two, three) = ("a-limited-key-that-is-long", "a-capped-key-that-is-long", "a-spent-key-that-is-long");
    let app = start(vec![given(one, limited), given(two, capped), given(three, spent.clone())]).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("a", &endpoint, 4).await;
    let body = chat("m", false).to_string();
    let ask = async |key: &str| app.send_as(Method::POST, CHAT, &[("x-api-key", key)], &body).await;
    for remaining in ["1", "0"] {
        let answer = ask(one).await;
        assert_eq!(answer.status, 200);
        let header = |name: &str| answer.header(&format!("x-ratelimit-{name}")).map(str::to_owned);
        assert_eq!(header("limit-requests").as_deref(), Some("2"));
        assert_eq!(header("remaining-requests").as_deref(), Some(remaining));
        assert_eq!(header("limit-tokens").as_deref(), Some("10000"));
        assert!(
            header("remaining-tokens").is_some()
                && header("reset-tokens").is_some()
                && header("reset-requests").is_some()
        );
    }
    let refused = ask(one).await;
    assert_eq!(refused.error(), (429, "rate_limit_exceeded".to_owned()));
    assert!(refused.text().contains("requests_per_minute"), "{}", refused.text());
    let retry_after: u64 = refused.header("retry-after").and_then(|value| value.parse().ok()).expect("a number");
    assert!((1..=30).contains(&retry_after), "{retry_after}");

    // Ten tokens are used with one answer, and more are there at midnight only.
    assert_eq!(ask(three).await.status, 200);
    let refused = ask(three).await;
    assert_eq!(refused.error(), (429, "rate_limit_exceeded".to_owned()));
    assert!(refused.text().contains("tokens_per_day"), "{}", refused.text());

    endpoint.hold();
    let header = format!("x-api-key: {two}\r\n");
    let mut running = RawClient::post_with(app.address, CHAT, &header, &chat("m", false)).await;
    endpoint.until("it arrives", |counts| counts.in_flight == 1).await;
    let mut waiting = RawClient::post_with(app.address, CHAT, &header, &chat("m", false)).await;
    app.until("/api/queue/stats", "it waits", |stats| stats["waiting_count"] == 1).await;
    assert_eq!(ask(two).await.error(), (429, "queue_full".to_owned()));
    assert_eq!(endpoint.counts().in_flight, 1, "although the endpoint has four slots");
    endpoint.release(1);
    running.read_until("Hello").await;
    endpoint.until("the second arrives", |counts| counts.in_flight == 1).await;
    endpoint.release(1);
    waiting.read_until("Hello").await;
    app.until("/api/queue/stats", "the end", |stats| stats["processing_count"] == 0).await;
    endpoint.script(polite);

    // What was used is kept by day and model, and the day's tokens outlive a restart.
    let list = app.get("/api/keys").await.json();
    let path_of = |name: &str| {
        let key = list.as_array().expect("a list").iter().find(|key| key["name"] == name).expect("there");
        format!("/api/keys/{}/usage?days=1", key["id"].as_str().expect("an id"))
    };
    let usage = app.get(&path_of("limited")).await.json();
    let day = usage[0]["day"].clone();
    let expected = json!([{ "day": day, "model": "m", "requests": 3, "succeeded": 2, "failed": 0, "refused": 1,
        "input_tokens": 6, "output_tokens": 14 }]);
    assert_eq!(usage, expected);
    let used = app.get(&path_of("spent")).await.json();
    let folder = app.restartable().await;
    let change = |config: &mut Config| config.keys = vec![given(three, spent), admin_key()];
    let mut app = TestApp::start_in(folder, change).await;
    app.key = Some(ADMIN.to_owned());
    let ask = async |key: &str| app.send_as(Method::POST, CHAT, &[("x-api-key", key)], &body).await;
    assert_eq!(ask(three).await.error(), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(
        app.get(&path_of("spent")).await.json()[0]["refused"],
        json!(used[0]["refused"].as_i64().expect("a number") + 1)
    );
    assert_eq!(app.get(&path_of("limited")).await.error().0, 404, "its key is gone, and its use is kept");

    // A raised limit holds at once.
    let made = app.post("/api/keys", &json!({ "name": "made", "requests_per_minute": 1 })).await.json();
    let key = made["key"].as_str().expect("a key");
    assert_eq!((ask(key).await.status.as_u16(), ask(key).await.status.as_u16()), (200, 429));
    let path = format!("/api/keys/{}", made["id"].as_str().expect("an id"));
    let json = [("content-type", "application/json")];
    assert_eq!(app.send(Method::PUT, &path, &json, r#"{"requests_per_minute":null}"#).await.status, 200);
    assert_eq!(ask(key).await.status, 200);
    for (limit, value) in [("max_concurrency", "0"), ("tokens_per_day", "1.5"), ("max_waiting", "-1")] {
        let answer = app.send(Method::PUT, &path, &json, &format!("{{\"{limit}\":{value}}}")).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &Value::from(limit)));
    }
    app.finish().await;
}
