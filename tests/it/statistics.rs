//! What is counted, and that counts survive a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::database::Database;
use crate::support::fake_endpoint::json_answer;
use crate::support::{FakeEndpoint, RawClient, TestApp, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Waits until a query finds the expected number in the app's database.
async fn until_written(folder: &Path, what: &str, sql: &str, expected: i64) -> Database {
    let mut database = Database::open(&folder.join("test.db"));
    soon(what, async {
        while database.number(sql) != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
    database
}

#[actix_web::test]
async fn every_lease_and_the_first_refusal_is_a_row_and_a_request_counts_by_its_final_answer() {
    let app = TestApp::with(|config| config.health.failures_to_offline = 100).await;
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let (bad_id, good_id) = (app.register_scored("bad", &bad, 2).await, app.register_scored("good", &good, 1).await);
    bad.script(|_| json_answer(500, "{}"));
    let ids = |answer: &crate::support::test_app::Answer| answer.header("x-request-id").expect("an id").to_owned();
    let retried = ids(&app.post(CHAT, &chat("m", true)).await);
    let refused = ids(&app.post(CHAT, &chat("unknown", false)).await);
    good.script(|_| json_answer(500, "{}"));
    let failed = ids(&app.post(CHAT, &chat("m", false)).await);
    good.hold();
    let left = RawClient::post_with(app.address, CHAT, "x-request-id: left\r\n", &chat("m", false)).await;
    good.until("it arrives", |counts| counts.in_flight == 1).await;
    drop(left);
    app.until_endpoint(&good_id, "abandoned", |view| view["total_requests"] == 3 && view["in_flight"] == 0).await;
    let bad_leases =
        app.get(&format!("/api/endpoints/{bad_id}")).await.json()["total_requests"].as_i64().expect("a number");

    let rows = 3 + bad_leases + 1;
    let all = "(SELECT count(*) FROM request_history)";
    let mut database = until_written(app.folder(), "written", all, rows).await;
    database.check();
    let mut count = |filter: &str| database.number(&format!("(SELECT count(*) FROM request_history WHERE {filter})"));
    let of = |id: &str, rest: &str| format!("request_id='{id}' AND {rest}");
    assert_eq!(count(&of(&retried, "attempt=1 AND status='failed' AND NOT is_final AND error='answered 500'")), 1);
    let served = "attempt=2 AND status='succeeded' AND is_final AND output_tokens=5 AND input_tokens=3";
    assert_eq!(count(&of(&retried, &format!("{served} AND first_token_ms >= 0 AND duration_ms >= first_token_ms"))), 1);
    assert_eq!(count(&of(&retried, &format!("endpoint_id='{good_id}' AND client='127.0.0.1' AND model_id='m'"))), 1);
    let of_none = "endpoint_id IS NULL AND duration_ms IS NULL AND model_id='unknown' AND error='model_not_found'";
    assert_eq!(count(&of(&refused, &format!("status='refused' AND is_final AND {of_none}"))), 1);
    assert_eq!(count(&of(&failed, "is_final")), 1, "a retry that nobody is left for is no row of its own");
    assert_eq!(count(&of("left", "status='abandoned' AND is_final")), 1);
    assert_eq!(count("api_kind='chat_completions'"), rows);

    let stats = app.get("/api/dashboard/stats").await.json();
    let expected = json!([4, 1, 2]);
    assert_eq!(json!([stats["total_requests"], stats["successful_requests"], stats["failed_requests"]]), expected);
    let minutes = app.get("/api/dashboard/request-history").await.json();
    let sum = |field: &str| -> u64 {
        minutes.as_array().expect("a list").iter().filter_map(|minute| minute[field].as_u64()).sum()
    };
    assert_eq!((sum("success"), sum("error")), (1, 2));
    app.finish().await;
}

/// Everything that a restart must not change.
async fn memory(app: &TestApp, id: &str) -> Value {
    let mut view = app.get(&format!("/api/endpoints/{id}")).await.json();
    for changing in ["status", "last_seen", "last_error", "latency_ms", "in_flight"] {
        view[changing] = Value::Null;
    }
    let overview = app.get("/api/dashboard/overview").await.json();
    let is_busy = |minute: &&Value| minute["success"] != 0 || minute["error"] != 0;
    let busy: Vec<&Value> = overview["history"].as_array().expect("a list").iter().filter(is_busy).collect();
    let mut speeds = app.get(&format!("/api/endpoints/{id}/model-tps")).await.json();
    // The latency is measured anew after each start.
    ["first_token_ms", "decode_tps"].iter().for_each(|field| speeds[0][field] = Value::Null);
    let stats = ["total_requests", "successful_requests", "total_output_tokens"].map(|field| &overview["stats"][field]);
    json!([view, busy, speeds, stats])
}

#[actix_web::test]
async fn a_restart_changes_nothing_that_was_counted() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 2).await;
    endpoint.hold();
    let (question, asked) = (chat("m", true), Instant::now());
    let answer_in_time = async {
        while asked.elapsed() < Duration::from_millis(50) {
            app.get("/health").await;
        }
        endpoint.release(1);
    };
    assert_eq!(join(app.post(CHAT, &question), answer_in_time).await.0.status, 200);
    assert_eq!(app.post(CHAT, &chat("unknown", true)).await.status, 404);
    app.until_counted(&id, 1, 0).await;
    let before = memory(&app, &id).await;
    let latency = app.get(&format!("/api/endpoints/{id}")).await.json()["latency_ms"].clone();
    assert!(latency.is_f64());
    drop(endpoint);
    let app = TestApp::start_in(app.restartable().await, |_| {}).await;
    let (mut before, mut after) = (before, memory(&app, &id).await);
    // Times are kept in whole milliseconds; these are at least fifty.
    for measured in ["tps", "average_duration_ms"] {
        let [was, is] =
            [&mut before, &mut after].map(|memory| memory[2][0][measured].take().as_f64().expect("measured"));
        assert!((was / is - 1.0).abs() < 0.03, "{measured} was {was} and is {is}");
    }
    assert_eq!(before, after);
    let view = app.until_endpoint(&id, "offline", |view| view["status"] == "offline").await;
    assert_eq!(view["latency_ms"], latency, "a status without a latency keeps the old one");
    app.finish().await;
}

#[actix_web::test]
async fn what_an_endpoint_did_outlives_it() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_counted(&id, 1, 0).await;
    let path = format!("/api/endpoints/{id}");
    assert_eq!(app.send(awc::http::Method::DELETE, &path, &[], "").await.status, 204);
    let folder = app.restartable().await;
    let mut database = Database::open(&folder.path().join("test.db"));
    for table in ["request_history", "endpoint_daily_stats"] {
        assert_eq!(database.number(&format!("(SELECT count(*) FROM {table} WHERE endpoint_id='{id}')")), 1);
    }
    let app = TestApp::start_in(folder, |_| {}).await;
    assert_eq!(app.get("/api/dashboard/stats").await.json()["total_requests"], 1);
    app.finish().await;
}

#[actix_web::test]
async fn history_is_removed_with_age_but_not_what_it_counted() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    for _ in 0..3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    app.until_counted(&id, 3, 0).await;
    let folder = app.restartable().await;
    let mut database = Database::open(&folder.path().join("test.db"));
    let copies = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
        INSERT INTO request_history (request_id, attempt, created_at, api_kind, model_id, client, status, is_final, wait_ms) \
        SELECT 'old', 1, h.created_at - 90000000, 'embeddings', 'm', 'c', 'refused', 1, 0 FROM n, request_history h WHERE h.id = 1";
    database.execute(copies);
    let day = Duration::from_secs(24 * 3600);
    let app = TestApp::start_in(folder, |config| config.database.history_retention = day).await;
    until_written(app.folder(), "removed", "(SELECT count(*) FROM request_history WHERE request_id='old')", 0).await;
    assert_eq!(database.number("(SELECT count(*) FROM request_history)"), 3);
    app.until_counted(&id, 3, 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn a_flood_of_refusals_is_counted_exactly_over_a_restart_and_leaves_few_rows() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("a", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    for _ in 0..500 {
        assert_eq!(app.post(CHAT, &chat("unknown", false)).await.status, 404);
    }
    let shown = async |app: &TestApp| {
        let minutes = app.get("/api/dashboard/request-history").await.json();
        let minutes = minutes.as_array().expect("a list").clone();
        let sum = |field: &str| minutes.iter().filter_map(|minute| minute[field].as_u64()).sum::<u64>();
        let stats = app.get("/api/dashboard/stats").await.json();
        let totals = ["total_requests", "successful_requests", "failed_requests", "history_rows_dropped"];
        (json!(totals.map(|field| &stats[field])), sum("success"), sum("error"))
    };
    let expected = (json!([501, 1, 500, 0]), 1, 500);
    assert_eq!(shown(&app).await, expected);
    let folder = app.restartable().await;
    let mut database = Database::open(&folder.path().join("test.db"));
    database.check();
    assert_eq!(database.number("(SELECT sum(requests) FROM refused WHERE code='model_not_found')"), 500);
    let seconds = "(SELECT count(DISTINCT created_at / 1000) FROM request_history WHERE status='refused')";
    let rows = database.number("(SELECT count(*) FROM request_history WHERE status='refused')");
    assert_eq!(rows, database.number(seconds), "one of each second");
    assert!(rows < 500, "not one for each");
    let app = TestApp::start_in(folder, |_| {}).await;
    assert_eq!(shown(&app).await, expected);
    app.finish().await;
}

#[actix_web::test]
async fn history_is_bounded_by_rows_but_not_what_it_counted() {
    let app = TestApp::with(|config| {
        config.database.history_max_rows = 5;
        config.database.flush_interval = Duration::from_millis(20);
    })
    .await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("a", &endpoint, 1).await;
    for _ in 0..30 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    }
    app.until_counted(&id, 30, 0).await;
    let total = "(SELECT total_requests FROM endpoints)";
    let mut database = until_written(app.folder(), "counted", total, 30).await;
    until_written(app.folder(), "bounded", "(SELECT count(*) FROM request_history)", 5).await;
    assert_eq!(database.number("(SELECT min(id) FROM request_history)"), 26, "the oldest are gone");
    app.finish().await;
}

#[actix_web::test]
async fn sums_are_kept_by_model_and_by_day() {
    let (app, a, b) =
        (TestApp::start().await, FakeEndpoint::start(&["m", "n"]).await, FakeEndpoint::start(&["n"]).await);
    let (a_id, b_id) = (app.register_scored("a", &a, 2).await, app.register_scored("b", &b, 1).await);
    let sums = async |path: &str| app.get(path).await.json();
    assert_eq!(sums(&format!("/api/endpoints/{a_id}/model-stats")).await, json!([]));
    for model in ["m", "n", "n"] {
        assert_eq!(app.post(CHAT, &chat(model, false)).await.status, 200);
    }
    a.script(|_| json_answer(422, "{}"));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 422);
    let by_model = sums(&format!("/api/endpoints/{a_id}/model-stats")).await;
    let show = |sums: &Value| {
        let fields = ["total_requests", "successful_requests", "failed_requests", "total_output_tokens"];
        json!(fields.map(|field| &sums[field]))
    };
    assert_eq!(by_model.as_array().map(Vec::len), Some(2));
    assert_eq!((&by_model[0]["model_id"], show(&by_model[0])), (&json!("m"), json!([2, 1, 1, 7])));
    assert_eq!((&by_model[1]["model_id"], show(&by_model[1])), (&json!("n"), json!([2, 2, 0, 14])));
    assert!(by_model[0]["total_duration_ms"].is_i64());
    assert_eq!(sums("/api/dashboard/model-stats").await, by_model, "the other has had none");
    let days = sums(&format!("/api/endpoints/{a_id}/daily-stats?days=365")).await;
    assert_eq!((days.as_array().map(Vec::len), show(&days[0])), (Some(1), json!([4, 3, 1, 21])));
    assert_eq!(sums(&format!("/api/endpoints/{b_id}/daily-stats")).await, json!([]));
    for days in ["0", "366", "-1", "many", ""] {
        let answer = app.get(&format!("/api/endpoints/{a_id}/daily-stats?days={days}")).await;
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()));
        assert_eq!(answer.json()["error"]["param"], "days");
    }
    let twice = app.get(&format!("/api/endpoints/{a_id}/daily-stats?days=7&days=8")).await;
    assert_eq!(twice.error(), (400, "invalid_request".to_owned()));
    let unknown = "/api/endpoints/00000000-0000-0000-0000-000000000000";
    for part in ["model-stats", "daily-stats", "model-tps"] {
        assert_eq!(app.get(&format!("{unknown}/{part}")).await.error(), (404, "endpoint_not_found".to_owned()));
    }
    app.finish().await;
}
