//! Which endpoint a lease is granted on, with real requests and reports.

use std::time::Duration;

use awc::http::Method;
use leaseway::config::Config;
use leaseway::domain::dispatch::choose::Mode;
use serde_json::{Value, json};

use crate::support::{FakeEndpoint, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

/// Endpoints that serve one model, in the order of their registration.
struct Fleet {
    app: TestApp,
    endpoints: Vec<FakeEndpoint>,
    ids: Vec<String>,
}

impl Fleet {
    /// Starts one endpoint of each name, with one slot.
    async fn start(names: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let mut fleet = Self { app: TestApp::with(change).await, endpoints: Vec::new(), ids: Vec::new() };
        for name in names {
            let endpoint = FakeEndpoint::start(&["m"]).await;
            fleet.ids.push(fleet.app.register(name, &endpoint, 1).await);
            fleet.endpoints.push(endpoint);
        }
        fleet
    }

    async fn report(&self, number: usize, report: &Value) {
        let path = format!("/api/endpoints/{}/metrics", self.ids[number]);
        let answer = self.app.post(&path, report).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// Sends requests one after another and returns the names of the endpoints that served them.
    async fn served(&self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            let answer = self.app.post(CHAT, &chat("m", false)).await;
            names.push(answer.header("x-leaseway-endpoint").unwrap_or("nobody").to_owned());
        }
        names
    }

    /// Sends nine requests and returns how many of them each endpoint served.
    async fn nine(&self) -> Vec<usize> {
        let before: Vec<usize> = self.endpoints.iter().map(|endpoint| endpoint.counts().arrived).collect();
        self.served(9).await;
        let counts = self.endpoints.iter().map(|endpoint| endpoint.counts().arrived);
        counts.zip(before).map(|(after, before)| after - before).collect()
    }
}

fn load(cpu: f64, memory: f64, active: u32) -> Value {
    json!({ "cpu_usage": cpu, "memory_usage": memory, "active_requests": active })
}

fn scored(score: u32) -> Value {
    json!({ "cpu_usage": 1, "memory_usage": 1, "active_requests": 0, "capability_score": score })
}

#[actix_web::test]
async fn without_reports_idle_endpoints_take_turns_in_every_mode() {
    for mode in [Mode::Auto, Mode::RoundRobin, Mode::Metrics] {
        let fleet = Fleet::start(&["a", "b", "c"], |config| config.balancer.mode = mode).await;
        assert_eq!(fleet.nine().await, [3, 3, 3], "{mode:?}");
        fleet.app.finish().await;
    }
}

#[actix_web::test]
async fn the_most_capable_is_chosen_while_it_has_a_slot() {
    let fleet = Fleet::start(&["weak", "strong", "unknown"], |_| {}).await;
    fleet.report(0, &scored(9170)).await;
    fleet.report(1, &scored(9850)).await;
    assert_eq!(fleet.served(3).await, ["strong", "strong", "strong"]);
    fleet.endpoints[1].hold();
    let question = chat("m", false);
    let held = fleet.app.post(CHAT, &question);
    let meanwhile = async {
        fleet.endpoints[1].until("it is taken", |counts| counts.in_flight == 1).await;
        assert_eq!(fleet.served(2).await, ["weak", "weak"]);
        fleet.endpoints[1].release(5);
    };
    futures_util::future::join(held, meanwhile).await;
    assert_eq!(fleet.served(2).await, ["strong", "strong"]);
    let stats = fleet.app.get("/api/load-balancer/stats").await.json();
    assert_eq!((&stats["mode"], &stats["total_selections"]), (&json!("auto"), &json!(8)));
    assert_eq!(stats["selections_by_endpoint"], json!({ "strong": 6, "weak": 2, "unknown": 0 }));
    assert_eq!(stats["selections_by_reason"], json!({ "highest_capability": 8 }));
    assert!(stats["avg_selection_time_us"].as_f64().is_some_and(|time| time > 0.0), "{stats}");
    fleet.app.finish().await;
}

#[actix_web::test]
async fn the_operators_score_counts_before_the_reported_one() {
    let fleet = Fleet::start(&["a", "b"], |_| {}).await;
    fleet.report(0, &scored(9000)).await;
    assert_eq!(fleet.served(1).await, ["a"]);
    let path = |number: usize| format!("/api/endpoints/{}", fleet.ids[number]);
    for (number, score) in [(0, 10), (1, 20)] {
        let change = json!({ "capability_score": score }).to_string();
        assert_eq!(fleet.app.send(Method::PUT, &path(number), &[], &change).await.status, 200);
    }
    assert_eq!(fleet.served(2).await, ["b", "b"]);
    fleet.app.finish().await;
}

#[actix_web::test]
async fn when_all_are_busy_they_take_turns() {
    for mode in [Mode::Auto, Mode::Metrics] {
        let fleet = Fleet::start(&["a", "b", "c"], |config| config.balancer.mode = mode).await;
        for (number, cpu) in [(0, 81.0), (1, 95.0), (2, 100.0)] {
            fleet.report(number, &load(cpu, 10.0, 1)).await;
        }
        assert_eq!(fleet.nine().await, [3, 3, 3], "{mode:?}");
        fleet.report(2, &load(80.0, 10.0, 1)).await;
        assert_eq!(fleet.served(2).await, ["c", "c"], "{mode:?}");
        fleet.app.finish().await;
    }
}

#[actix_web::test]
async fn busy_is_told_by_the_gpu_where_there_is_one() {
    let fleet = Fleet::start(&["cpu", "gpu"], |_| {}).await;
    fleet.report(0, &load(90.0, 10.0, 0)).await;
    let gpu = |gpu: f64, vram: f64, active: u32| json!({ "cpu_usage": 99, "memory_usage": 9, "active_requests": active, "gpu_usage": gpu, "vram_usage": vram });
    for (report, chosen) in [
        (gpu(80.0, 90.0, 9), ["gpu", "gpu"]),
        (gpu(80.1, 0.0, 0), ["cpu", "gpu"]),
        (gpu(0.0, 90.1, 0), ["cpu", "gpu"]),
        (gpu(0.0, 0.0, 10), ["cpu", "gpu"]),
    ] {
        fleet.report(1, &report).await;
        let mut served = fleet.served(2).await;
        served.sort_unstable();
        assert_eq!(served, chosen, "{report}");
    }
    fleet.app.finish().await;
}

#[actix_web::test]
async fn the_least_loaded_is_chosen_and_a_report_counts_for_the_very_next_choice() {
    let fleet = Fleet::start(&["a", "b", "unreported"], |config| {
        config.balancer.mode = Mode::Metrics;
        // No report may grow old unseen for so long that the cache could hide one that is new.
        config.balancer.ranking_cache = Duration::from_secs(10);
    })
    .await;
    fleet.report(0, &load(20.0, 30.0, 1)).await;
    fleet.report(1, &load(70.0, 50.0, 5)).await;
    assert_eq!(fleet.served(2).await, ["a", "a"]);
    fleet.report(0, &load(20.0, 30.0, 13)).await;
    assert_eq!(fleet.served(2).await, ["b", "b"]);
    let stats = fleet.app.get("/api/load-balancer/stats").await.json();
    assert_eq!(stats["selections_by_reason"], json!({ "lowest_score": 4 }));
    fleet.endpoints[0].hold();
    fleet.endpoints[1].hold();
    let question = chat("m", false);
    let held = futures_util::future::join(fleet.app.post(CHAT, &question), fleet.app.post(CHAT, &question));
    let meanwhile = async {
        for endpoint in &fleet.endpoints[..2] {
            endpoint.until("it is taken", |counts| counts.in_flight == 1).await;
        }
        assert_eq!(fleet.served(1).await, ["unreported"], "last, but not left out");
        fleet.endpoints[..2].iter().for_each(|endpoint| endpoint.release(1));
    };
    futures_util::future::join(held, meanwhile).await;
    fleet.app.finish().await;
}

#[actix_web::test]
async fn a_stale_report_stops_counting() {
    let fleet = Fleet::start(&["a", "b"], |config| {
        config.balancer.mode = Mode::Metrics;
        config.balancer.metrics_fresh = Duration::from_secs(1);
    })
    .await;
    fleet.report(0, &load(1.0, 1.0, 0)).await;
    assert_eq!(fleet.served(3).await, ["a", "a", "a"]);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while fleet.served(1).await != ["b"] {
        assert!(std::time::Instant::now() < deadline, "the report still counts");
    }
    fleet.app.finish().await;
}

#[actix_web::test]
async fn reports_are_shown_under_every_name_of_the_path() {
    let fleet = Fleet::start(&["a"], |_| {}).await;
    let id = &fleet.ids[0];
    let empty = fleet.app.get(&format!("/api/endpoints/{id}/metrics")).await.json();
    assert_eq!((&empty["cpu_usage"], &empty["history"]), (&Value::Null, &json!([])));
    for (number, name) in (0..12).zip(["endpoints", "nodes", "agents"].into_iter().cycle()) {
        let report = json!({
            "cpu_usage": number, "memory_usage": 45.5, "active_requests": 2, "gpu_temperature": 61.5,
            "avg_response_time_ms": 12.25, "timestamp": "2026-01-02T03:04:05Z",
            "endpoint_id": "somebody-else", "id": 7, "load_average": [1, 2],
        });
        assert_eq!(fleet.app.post(&format!("/api/{name}/{id}/metrics"), &report).await.status, 204);
    }
    for name in ["endpoints", "nodes", "agents"] {
        let shown = fleet.app.get(&format!("/api/{name}/{id}/metrics")).await.json();
        assert_eq!((&shown["cpu_usage"], &shown["memory_usage"]), (&json!(11.0), &json!(45.5)));
        assert_eq!((&shown["gpu_usage"], &shown["gpu_temperature"]), (&Value::Null, &json!(61.5)));
        assert_eq!((&shown["timestamp"], &shown["endpoint_id"]), (&json!("2026-01-02T03:04:05Z"), &json!(id)));
        let history = shown["history"].as_array().expect("a list");
        let cpu: Vec<f64> = history.iter().filter_map(|report| report["cpu_usage"].as_f64()).collect();
        assert_eq!(cpu, (2..12).map(f64::from).collect::<Vec<_>>(), "the last ten, oldest first");
        assert!(history.iter().all(|report| report["received_at"].as_str().is_some_and(|time| time.ends_with('Z'))));
    }
    fleet.app.finish().await;
}

#[actix_web::test]
async fn a_report_that_makes_no_sense_is_refused_with_the_fields_name_and_changes_nothing() {
    let fleet = Fleet::start(&["a"], |_| {}).await;
    let id = &fleet.ids[0];
    let path = format!("/api/endpoints/{id}/metrics");
    fleet.report(0, &load(5.0, 6.0, 7)).await;
    let check = async |body: &str, param: &str| {
        let answer = fleet.app.send(Method::POST, &path, &[], body).await;
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{body}");
        let error = &answer.json()["error"];
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{body}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(param)), "{error}");
    };
    let with = |field: &str, value: &str| {
        let mut fields = vec!["\"cpu_usage\":1", "\"memory_usage\":1", "\"active_requests\":1"];
        fields.retain(|known| !known.contains(field));
        format!("{{{},\"{field}\":{value}}}", fields.join(","))
    };
    for percentage in ["cpu_usage", "memory_usage", "gpu_usage", "vram_usage"] {
        for value in ["-1", "100.5", "1e999", "-1e999", "\"50\"", "true", "[1]"] {
            check(&with(percentage, value), percentage).await;
        }
    }
    for value in ["-1", "1.5", "4294967296", "\"3\""] {
        check(&with("active_requests", value), "active_requests").await;
    }
    for value in ["10001", "-1", "0.5"] {
        check(&with("capability_score", value), "capability_score").await;
    }
    check(&with("avg_response_time_ms", "-0.5"), "avg_response_time_ms").await;
    check(&with("gpu_temperature", "1000"), "gpu_temperature").await;
    check(&with("timestamp", "\"yesterday\""), "timestamp").await;
    for required in ["cpu_usage", "memory_usage", "active_requests"] {
        check(&with(required, "null"), required).await;
    }
    for nonsense in ["", "[]", "[20,30,1]", "7", "{\"cpu_usage\":NaN}", "{\"cpu_usage\":1"] {
        assert_eq!(fleet.app.send(Method::POST, &path, &[], nonsense).await.status, 400, "{nonsense}");
    }
    assert_eq!(fleet.app.get(&path).await.json()["cpu_usage"], 5.0);
    assert_eq!(fleet.app.get(&path).await.json()["history"].as_array().map(Vec::len), Some(1));
    for unknown in ["nobody", "00000000-0000-0000-0000-000000000000"] {
        let path = format!("/api/endpoints/{unknown}/metrics");
        assert_eq!(fleet.app.post(&path, &load(1.0, 1.0, 1)).await.error(), (404, "endpoint_not_found".to_owned()));
        assert_eq!(fleet.app.get(&path).await.error(), (404, "endpoint_not_found".to_owned()));
    }
    let delete = format!("/api/endpoints/{id}");
    let report = load(1.0, 1.0, 1);
    let (deleted, reported) =
        futures_util::future::join(fleet.app.send(Method::DELETE, &delete, &[], ""), fleet.app.post(&path, &report))
            .await;
    assert_eq!(deleted.status, 204);
    assert!([204, 404].contains(&reported.status.as_u16()), "{}", reported.text());
    assert_eq!(fleet.app.post(&path, &report).await.status, 404);
    fleet.app.finish().await;
}

#[actix_web::test]
async fn engines_that_tell_their_load_are_asked_for_it_unless_they_report_themselves() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let page = |running: u32| format!("vllm:num_requests_running{{engine=\"0\"}} {running}.0\n");
    endpoint.page("/metrics", &page(7));
    let body = json!({ "name": "a", "base_url": endpoint.url(), "kind": "vllm" });
    let id = app.post("/api/endpoints", &body).await.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/endpoints/{id}/metrics");
    let sync = format!("/api/endpoints/{id}/sync");
    let report = app.until(&path, "asked for its load", |report| report["active_requests"] == 7).await;
    assert_eq!(report["source"], "pulled");
    assert_eq!(app.post(&path, &load(1.0, 1.0, 2)).await.status, 204);
    endpoint.page("/metrics", &page(9));
    assert_eq!(app.post(&sync, &json!({})).await.status, 200);
    let report = app.get(&path).await.json();
    assert_eq!((&report["source"], &report["active_requests"]), (&json!("pushed"), &json!(2)));
    app.finish().await;
}
