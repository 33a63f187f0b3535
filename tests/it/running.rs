//! The real binary: settings, mistakes, signals.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::tempdir;

use crate::support::process::{Process, leaseway, run};
use crate::support::{FakeEndpoint, RawClient, Step, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// Prepares `leaseway serve` on a free port.
fn serve(folder: &Path) -> Command {
    let mut command = leaseway(folder, &["serve"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    command
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[actix_web::test]
async fn it_starts_without_a_config_file_and_without_an_endpoint() {
    let folder = tempdir().expect("a folder");
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    for path in ["/health", "/ready"] {
        let answer = RawClient::send(address, &get(path)).await.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    assert!(folder.path().join("leaseway.db").exists());
    process.signal("HUP");
    process.line("SIGHUP has no effect").await;
    process.signal("TERM");
    assert!(process.wait().await.success());
}

#[actix_web::test]
async fn a_hangup_has_the_endpoints_of_the_file_read_again() {
    let folder = tempdir().expect("a folder");
    let fakes =
        [FakeEndpoint::start(&["a"]).await, FakeEndpoint::start(&["b"]).await, FakeEndpoint::start(&["c"]).await];
    let endpoint = |name: &str, fake: &FakeEndpoint, slots: u32| {
        format!("[[endpoints]]\nname = \"{name}\"\nbase_url = \"{}\"\nmax_concurrency = {slots}\n", fake.url())
    };
    let file = folder.path().join("leaseway.toml");
    fs::write(&file, endpoint("a", &fakes[0], 1) + &endpoint("b", &fakes[1], 1)).expect("written");
    let mut command = leaseway(folder.path(), &["serve", "--config", "leaseway.toml"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    let mut process = Process::start(command);
    let address = process.address().await;
    process.line("endpoint is online, was pending endpoint=a").await;
    fakes[0].hold();
    let mut running = RawClient::post(address, CHAT, &chat("a", true)).await;
    fakes[0].until("it runs", |counts| counts.in_flight == 1).await;

    let changed = endpoint("a", &fakes[0], 5) + &endpoint("c", &fakes[2], 1) + "[queue]\nmax_waiting = 7\n";
    fs::write(&file, changed).expect("written");
    process.signal("HUP");
    process.line("config file applied endpoints_changed=2 endpoints_removed=1").await;
    process.line("changes take effect at the next start sections=queue").await;
    process.line("endpoint is online, was pending endpoint=c").await;
    let names_and_slots = async || {
        let answer = RawClient::send(address, &get("/api/endpoints")).await.read_to_end().await;
        let body = answer.split("\r\n\r\n").nth(1).expect("a body").to_owned();
        let list: Vec<serde_json::Value> = serde_json::from_str(&body).expect("a list");
        let shown = list.iter().map(|endpoint| format!("{} {}", endpoint["name"], endpoint["max_concurrency"]));
        shown.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(names_and_slots().await, "\"a\" 5, \"c\" 1");

    fs::write(&file, "[[endpoints]]\nname = \"a\"\nbase_url = \"ftp://x\"\n").expect("written");
    process.signal("HUP");
    process.line("config file not applied: leaseway.toml:3: ").await;
    assert_eq!(names_and_slots().await, "\"a\" 5, \"c\" 1", "a bad file changes nothing");
    fakes[0].release(1);
    running.read_until("[DONE]").await;
    process.signal("TERM");
    assert!(process.wait().await.success());
}

#[actix_web::test]
async fn mistakes_in_the_config_file_are_listed_with_their_lines() {
    let folder = tempdir().expect("a folder");
    let text = "[queue]\nmax_waitng = 5\ntimeout_secs = \"x\"\n[tps]\nema_alpha = 7\n[[endpoints]]\nname = \"a\"\nbase_url = \"ftp://x\"\n";
    fs::write(folder.path().join("bad.toml"), text).expect("written");
    for arguments in [
        ["check-config", "bad.toml"].as_slice(),
        &["serve", "--config", "bad.toml"],
        &["--config", "bad.toml", "serve"],
        &["--config", "bad.toml", "demo"],
    ] {
        let (success, said) = run(leaseway(folder.path(), arguments)).await;
        assert!(!success);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        for (number, key) in [(2, "queue.max_waitng"), (3, "queue.timeout_secs"), (5, "tps.ema_alpha"), (8, "base_url")]
        {
            let start = format!("bad.toml:{number}: ");
            assert!(lines.iter().any(|line| line.starts_with(&start) && line.contains(key)), "{start}{key} in {said}");
        }
    }
    fs::write(folder.path().join("good.toml"), "[queue]\nmax_waiting = 5\n").expect("written");
    let (success, said) = run(leaseway(folder.path(), &["check-config", "good.toml"])).await;
    assert!(success && said.contains("no mistakes"), "{said}");
    let (success, said) = run(leaseway(folder.path(), &["--config", "good.toml", "check-config", "good.toml"])).await;
    assert!(!success && said.contains("not as --config"), "{said}");
}

#[actix_web::test]
async fn wrong_variables_are_named() {
    let folder = tempdir().expect("a folder");
    let mut command = serve(folder.path());
    command.env("LEASEWAY_QUEUE__MAX_WAITING", "many");
    let (success, said) = run(command).await;
    assert!(!success);
    assert!(said.contains("LEASEWAY_QUEUE__MAX_WAITING: queue.max_waiting = \"many\" is not allowed"), "{said}");
    let mut command = serve(folder.path());
    command.env("LEASEWAY_DATABASE__URL", OsStr::from_bytes(b"sqlite://a\xff.db"));
    let (success, said) = run(command).await;
    assert!(!success && said.contains("LEASEWAY_DATABASE__URL: the value is not UTF-8"), "{said}");
}

#[actix_web::test]
async fn open_access_beyond_this_machine_is_refused() {
    let folder = tempdir().expect("a folder");
    let mut command = leaseway(folder.path(), &[]);
    command.env("LEASEWAY_SERVER__BIND", "0.0.0.0:0");
    let (success, said) = run(command).await;
    assert!(!success && said.contains("server.insecure_open_access = true"), "{said}");
}

#[actix_web::test]
async fn requests_that_cannot_be_parsed_are_no_errors_whatever_is_logged() {
    let folder = tempdir().expect("a folder");
    let mut command = serve(folder.path());
    command.env("RUST_LOG", "debug");
    let mut process = Process::start(command);
    let address = process.address().await;
    RawClient::send(address, "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n").await.read_to_end().await;
    process.line("connection ended error=").await;
    process.signal("TERM");
    let said = process.rest().await;
    assert!(!said.contains("ERROR"), "{said}");
}

#[actix_web::test]
async fn a_port_in_use_is_named() {
    let folder = tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = leaseway(folder.path(), &[]);
    command.env("LEASEWAY_SERVER__BIND", &address);
    let (success, said) = run(command).await;
    assert!(!success && said.contains(&format!("cannot listen on {address}")), "{said}");
    assert_eq!(said.lines().count(), 1, "one clear line: {said}");
    let mut command = leaseway(folder.path(), &["demo"]);
    command.env("LEASEWAY_SERVER__BIND", &address);
    let (success, said) = run(command).await;
    assert!(!success && !said.contains("panicked"), "{said}");
}

#[actix_web::test]
async fn the_database_is_private_whole_after_a_stop_and_without_the_files_keys() {
    let folder = tempdir().expect("a folder");
    let text = "[[endpoints]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:9\"\napi_key_env = \"KEY\"\n";
    fs::write(folder.path().join("leaseway.toml"), text).expect("written");
    for _ in 0..2 {
        let mut command = leaseway(folder.path(), &["--config", "leaseway.toml"]);
        command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0").env("KEY", "top-secret");
        let mut process = Process::start(command);
        process.address().await;
        process.signal("TERM");
        assert!(process.wait().await.success());
    }
    let path = folder.path().join("leaseway.db");
    let database = fs::read(&path).expect("the file alone");
    let contains = |part: &str| database.windows(part.len()).any(|window| window == part.as_bytes());
    assert!(contains("http://127.0.0.1:9") && !contains("top-secret"));
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[actix_web::test]
async fn a_database_that_cannot_be_used_is_named_and_left_alone() {
    let folder = tempdir().expect("a folder");
    let text = "not a database, but somebody's notes\n".repeat(200);
    fs::write(folder.path().join("notes.txt"), &text).expect("written");
    for url in ["sqlite://notes.txt", "sqlite:///nowhere/at/all.db"] {
        let mut command = serve(folder.path());
        command.env("LEASEWAY_DATABASE__URL", url);
        let (success, said) = run(command).await;
        assert!(!success && said.contains(&format!("database `{url}` cannot be used")), "{said}");
        assert_eq!(said.lines().count(), 1, "one clear line: {said}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).expect("still there"), text);
}

#[actix_web::test]
async fn endpoints_of_the_file_are_applied_at_every_start() {
    let folder = tempdir().expect("a folder");
    let (a, b) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let names = async |endpoints: &[(&str, &FakeEndpoint)]| {
        let block = |(name, endpoint): &(&str, &FakeEndpoint)| {
            format!("[[endpoints]]\nname = \"{name}\"\nbase_url = \"{}\"\n", endpoint.url())
        };
        let text: String = endpoints.iter().map(block).collect();
        fs::write(folder.path().join("leaseway.toml"), text).expect("written");
        let mut command = leaseway(folder.path(), &["--config", "leaseway.toml"]);
        command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
        let mut process = Process::start(command);
        let answer = RawClient::send(process.address().await, &get("/api/endpoints")).await.read_to_end().await;
        process.signal("TERM");
        assert!(process.wait().await.success());
        let list = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let list: serde_json::Value = serde_json::from_str(list).expect("JSON");
        let mut names: Vec<String> =
            list.as_array().expect("a list").iter().map(|view| view["name"].to_string()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(names(&[("a", &a), ("b", &b)]).await, "\"a\" \"b\"");
    assert_eq!(names(&[("b", &b)]).await, "\"b\"");
    assert_eq!(names(&[("renamed", &b)]).await, "\"renamed\"");
}

#[actix_web::test]
async fn a_term_signal_lets_running_requests_finish_and_refuses_new_and_waiting_ones() {
    let folder = tempdir().expect("a folder");
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    let body = json!({ "name": "a", "base_url": endpoint.url() });
    RawClient::post(address, "/api/endpoints", &body).await.read_until("201 Created").await;
    process.line("endpoint is online").await;
    endpoint.hold();
    let mut running = RawClient::post(address, CHAT, &chat("m", false)).await;
    endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
    let mut waiting = RawClient::post(address, CHAT, &chat("m", false)).await;
    process.signal("TERM");
    let refused = waiting.read_to_end().await;
    let mut new = RawClient::post(address, CHAT, &chat("m", false)).await;
    for answer in [refused, new.read_to_end().await] {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"draining\""), "{answer}");
        assert!(answer.contains("retry-after: 5"), "{answer}");
    }
    let ready = RawClient::send(address, &get("/ready")).await.read_to_end().await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    endpoint.release(1);
    let finished = running.read_until("\"usage\"").await;
    assert!(finished.starts_with("HTTP/1.1 200"), "{finished}");
    assert!(process.wait().await.success());
    let mut process = Process::start(serve(folder.path()));
    assert!(process.line("listening address=").await.ends_with("endpoints=1"));
    let view = RawClient::send(process.address().await, &get("/api/endpoints")).await.read_to_end().await;
    assert!(view.contains("\"total_requests\":1,\"successful_requests\":1"), "no statistic is missing: {view}");
}

#[actix_web::test]
async fn a_running_request_that_fails_after_a_term_signal_goes_to_another_endpoint_that_is_free() {
    let folder = tempdir().expect("a folder");
    let (bad, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let block = |name: &str, endpoint: &FakeEndpoint, score: u32| {
        let url = endpoint.url();
        format!("[[endpoints]]\nname = \"{name}\"\nbase_url = \"{url}\"\ncapability_score = {score}\n")
    };
    fs::write(folder.path().join("leaseway.toml"), block("bad", &bad, 2) + &block("good", &good, 1)).expect("written");
    let mut command = leaseway(folder.path(), &["--config", "leaseway.toml"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    let mut process = Process::start(command);
    let address = process.address().await;
    for name in ["bad", "good"] {
        process.line(&format!("online, was pending endpoint={name}")).await;
    }
    bad.script(|_| vec![Step::Gate, Step::Close]);
    let mut running = RawClient::post(address, CHAT, &chat("m", false)).await;
    bad.until("it arrives", |counts| counts.in_flight == 1).await;
    process.signal("TERM");
    process.line("stopping").await;
    bad.release(1);
    let answer = running.read_until("Hello").await;
    assert!(answer.contains("x-leaseway-endpoint: good"), "{answer}");
    assert!(process.wait().await.success());
}

#[actix_web::test]
async fn the_grace_time_ends_what_is_left_and_a_second_signal_ends_at_once() {
    for second_signal in [false, true] {
        let folder = tempdir().expect("a folder");
        let endpoint = FakeEndpoint::start(&["m"]).await;
        let text = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{}\"\n", endpoint.url());
        fs::write(folder.path().join("leaseway.toml"), text).expect("written");
        let mut command = leaseway(folder.path(), &["serve", "--config", "leaseway.toml"]);
        let grace = if second_signal { "60" } else { "0" };
        command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0").env("LEASEWAY_SERVER__SHUTDOWN_GRACE_SECS", grace);
        let mut process = Process::start(command);
        endpoint.hold();
        let _running = RawClient::post(process.address().await, CHAT, &chat("m", false)).await;
        endpoint.until("the first arrives", |counts| counts.in_flight == 1).await;
        process.signal("TERM");
        process.line("stopping").await;
        if second_signal {
            process.signal("INT");
        }
        assert_eq!(process.wait().await.success(), !second_signal);
    }
}

#[actix_web::test]
async fn the_demo_shows_a_working_system() {
    let folder = tempdir().expect("a folder");
    let mut command = leaseway(folder.path(), &["demo"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    let mut process = Process::start(command);
    let address = process.address().await;
    process.line("curl -N http://").await;
    let mut client = RawClient::post(address, CHAT, &chat("demo-small", true)).await;
    let stream = client.read_until("[DONE]").await;
    assert!(stream.contains("x-leaseway-endpoint: demo-") && stream.contains("\"content\":\"lease \""), "{stream}");
    let endpoints = RawClient::send(address, &get("/api/endpoints")).await.read_to_end().await;
    assert_eq!(endpoints.matches("\"status\":\"online\"").count(), 3, "{endpoints}");
    let body = endpoints.split("\r\n\r\n").nth(1).expect("a body");
    let endpoints: Vec<serde_json::Value> = serde_json::from_str(body).expect("a list");
    for id in endpoints.iter().filter_map(|endpoint| endpoint["id"].as_str()) {
        let path = format!("/api/endpoints/{id}/metrics");
        let reported = async {
            while RawClient::send(address, &get(&path)).await.read_to_end().await.contains("\"history\":[]") {}
        };
        soon("a report", reported).await;
    }
    process.signal("TERM");
    assert!(process.wait().await.success());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is kept");
}

#[actix_web::test]
async fn registrations_that_are_refused_leave_no_connection_behind() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    let body = json!({ "name": "a", "base_url": endpoint.url() });
    let register = async |expected: &str| {
        RawClient::post(address, "/api/endpoints", &body).await.read_until(expected).await;
    };
    register("201 Created").await;
    process.line("endpoint is online").await;
    let open_files = process.open_files();
    for _ in 0..50 {
        register("409 Conflict").await;
    }
    let closed = async {
        while process.open_files() > open_files + 5 {
            tokio::task::yield_now().await;
        }
    };
    soon("all connections but a few are closed", closed).await;
    process.signal("TERM");
    assert!(process.wait().await.success());
}
