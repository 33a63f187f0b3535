//! The real binary and its database: stopped, killed, locked out, without room, with a file that is no good.

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::RngExt;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::time::{interval, timeout};

use crate::support::database::Database;
use crate::support::process::{Process, leaseway, run};
use crate::support::{FakeEndpoint, RawClient, chat, soon};

const CHAT: &str = "/v1/chat/completions";
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Prepares `leaseway serve` on a free port.
fn serve(folder: &Path) -> Command {
    let mut command = leaseway(folder, &["serve"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    command
}

async fn get(address: SocketAddr, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = RawClient::send(address, &request).await.read_to_end().await;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Returns the counters that the first endpoint is shown with: total, successful and failed.
async fn shown(address: SocketAddr) -> [u64; 3] {
    let views = get(address, "/api/endpoints").await;
    ["total_requests", "successful_requests", "failed_requests"]
        .map(|field| views[0][field].as_u64().unwrap_or_else(|| panic!("no {field} in {views}")))
}

/// Sends one request. Returns true if the whole answer came, false if the server is gone.
async fn ask(address: SocketAddr) -> bool {
    let Some(mut client) = RawClient::try_post(address, CHAT, "connection: close\r\n", &chat("m", false)).await else {
        return false;
    };
    let answer = client.read_to_end().await;
    answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("}}")
}

/// Registers an endpoint over the API.
async fn register(address: SocketAddr, name: &str, base_url: &str) {
    let body = json!({ "name": name, "base_url": base_url, "max_concurrency": 8 });
    RawClient::post(address, "/api/endpoints", &body).await.read_until("201 Created").await;
}

/// What eight clients have seen.
struct Seen {
    /// When each whole answer came.
    answered: Vec<Instant>,
    /// The number of requests sent.
    asked: u64,
    /// The longest time that a request took, answered or not.
    slowest: Duration,
}

impl Seen {
    /// Returns the number of requests; panics if one was not answered.
    fn all_answered(self) -> u64 {
        assert_eq!(self.answered.len() as u64, self.asked, "every request is answered");
        self.asked
    }
}

/// Eight clients send requests until `ends`, each with a pause of `pace` between two.
async fn load(address: SocketAddr, pace: Duration, ends: Instant) -> Seen {
    let seen = RefCell::new(Seen { answered: Vec::new(), asked: 0, slowest: Duration::ZERO });
    let asker = async || {
        let mut ticks = interval(pace);
        while Instant::now() < ends {
            ticks.tick().await;
            seen.borrow_mut().asked += 1;
            let asked = Instant::now();
            let is_answered = ask(address).await;
            let mut seen = seen.borrow_mut();
            seen.slowest = seen.slowest.max(asked.elapsed());
            if !is_answered {
                return;
            }
            seen.answered.push(Instant::now());
        }
    };
    join_all((0..8).map(|_| asker())).await;
    seen.into_inner()
}

#[actix_web::test]
async fn a_stop_loses_nothing() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let mut expected = 0;
    for round in 0..3 {
        let mut process = Process::start(serve(folder.path()));
        let address = process.address().await;
        if round == 0 {
            register(address, "a", &endpoint.url()).await;
        }
        process.line("endpoint is online").await;
        let asked = load(address, Duration::from_millis(1), Instant::now() + FLUSH_INTERVAL / 2).await.all_answered();
        process.signal("TERM");
        assert!(process.wait().await.success());
        expected += asked;
        let mut database = Database::open(&folder.path().join("leaseway.db"));
        database.check();
        assert_eq!(database.number("(SELECT count(*) FROM request_history)"), expected as i64);
    }
    let mut process = Process::start(serve(folder.path()));
    assert_eq!(shown(process.address().await).await, [expected, expected, 0]);
}

#[actix_web::test]
async fn a_kill_loses_no_registration_and_no_more_statistics_than_the_flush_interval() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let path = folder.path().join("leaseway.db");
    let (mut before, mut lost, mut most_lost) = (0, 0, 0);
    for round in 0..=20 {
        let mut process = Process::start(serve(folder.path()));
        let address = process.address().await;
        if round == 0 {
            register(address, "a", &endpoint.url()).await;
        } else {
            let views = get(address, "/api/endpoints").await;
            assert_eq!(views.as_array().map(Vec::len), Some(round + 1), "{views}");
            let mut database = Database::open(&path);
            database.check();
            let total = database.number("(SELECT total_requests FROM endpoints WHERE name='a')") as u64;
            assert_eq!(shown(address).await[0], total, "memory is what the database has");
        }
        process.line("endpoint is online").await;
        before = if round == 0 { 0 } else { shown(address).await[0].max(before) };
        if round == 20 {
            break;
        }
        let life = Duration::from_millis(rand::rng().random_range(100..1500));
        let asking = load(address, Duration::from_millis(2), Instant::now() + life * 2);
        let killing = async {
            let mut ticks = interval(life);
            ticks.tick().await;
            ticks.tick().await;
            // Nothing happens after this.
            register(address, &format!("late-{round}"), &format!("http://127.0.0.1:{}", 10 + round)).await;
            let killed = Instant::now();
            process.signal("KILL");
            killed
        };
        let (Seen { answered, asked, slowest }, killed) = futures_util::future::join(asking, killing).await;
        process.wait().await;
        let mut database = Database::open(&path);
        database.check();
        let written = database.number("(SELECT total_requests FROM endpoints WHERE name='a')") as u64 - before;
        // On a busy machine writing may be as late as the slowest answer, which waits for the same threads.
        let due_until = killed - FLUSH_INTERVAL - slowest;
        let due = answered.iter().filter(|answered| **answered <= due_until).count() as u64;
        assert!((due..=asked).contains(&written), "round {round}: {written} written, {due} due, {asked} asked");
        lost += answered.len() as u64 - written.min(answered.len() as u64);
        most_lost = most_lost.max(answered.len() as u64 - written.min(answered.len() as u64));
        before += written;
    }
    println!("{before} requests counted, {lost} lost in 20 kills, {most_lost} at most in one");
    assert!(before > 100, "hardly any load");
}

#[actix_web::test]
async fn requests_go_on_while_the_database_is_locked_and_nothing_is_lost() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    register(address, "a", &endpoint.url()).await;
    process.line("endpoint is online").await;
    let mut database = Database::open(&folder.path().join("leaseway.db"));
    database.execute("BEGIN EXCLUSIVE");
    let locked = Instant::now();
    let asked = load(address, Duration::from_millis(100), locked + Duration::from_secs(60)).await.all_answered();
    assert_eq!(shown(address).await, [asked, asked, 0], "memory has it all");
    assert_eq!(database.number("(SELECT count(*) FROM request_history)"), 0, "the database has nothing yet");
    process.line("statistics cannot be written").await;
    database.execute("ROLLBACK");
    process.line("statistics are written again").await;
    until_written(&mut database, asked).await;
    database.check();
    process.signal("TERM");
    let said = process.rest().await;
    assert_eq!(said.matches("statistics cannot be written").count(), 1, "one clear line: {said}");
}

#[actix_web::test]
async fn requests_go_on_on_a_full_disk_and_are_written_when_there_is_room() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let binary = serve(folder.path());
    // No file may grow beyond this size, which SQLite sees as a full disk.
    let mut command = Command::new("sh");
    command.env_clear().current_dir(folder.path()).env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    command.env("PATH", "/usr/bin:/bin").arg("-c").arg("trap '' XFSZ; ulimit -S -f 300; exec \"$0\" serve");
    command.arg(binary.get_program());
    let mut process = Process::start(command);
    let address = process.address().await;
    register(address, "a", &endpoint.url()).await;
    process.line("endpoint is online").await;
    let mut asked = 0;
    while timeout(Duration::from_millis(1), process.line("statistics cannot be written")).await.is_err() {
        let more = load(address, Duration::from_millis(1), Instant::now() + FLUSH_INTERVAL).await.all_answered();
        asked += more;
    }
    let more = load(address, Duration::from_millis(1), Instant::now() + FLUSH_INTERVAL * 3).await.all_answered();
    asked += more;
    assert_eq!(shown(address).await, [asked, asked, 0]);
    process.allow_large_files();
    process.line("statistics are written again").await;
    process.signal("TERM");
    let said = process.rest().await;
    assert_eq!(said.matches("statistics cannot be written").count(), 1, "one clear line: {said}");
    let mut database = Database::open(&folder.path().join("leaseway.db"));
    database.check();
    assert_eq!(database.number("(SELECT count(*) FROM request_history)"), asked as i64);
}

/// Asks until the database has so many requests.
async fn until_written(database: &mut Database, requests: u64) {
    let written = async {
        while database.number("(SELECT count(*) FROM request_history)") != requests as i64 {
            tokio::task::yield_now().await;
        }
    };
    soon("all of it is written", written).await;
}

/// Checks that a process whose database file is gone says so, answers requests and registers nothing. Returns how many
/// requests it has answered.
async fn go_on_without_file(process: &mut Process, address: SocketAddr) -> u64 {
    let ready = get(address, "/ready").await;
    assert_eq!(ready["error"]["code"], "not_ready");
    assert!(ready["error"]["message"].as_str().is_some_and(|words| words.contains("database file is gone")), "{ready}");
    let body = json!({ "name": "late", "base_url": "http://127.0.0.1:9" });
    RawClient::post(address, "/api/endpoints", &body).await.read_until("database_unavailable").await;
    let asked = load(address, Duration::from_millis(1), Instant::now() + FLUSH_INTERVAL * 2).await.all_answered();
    process.line("the database file is gone").await;
    asked
}

#[actix_web::test]
async fn a_database_file_that_is_gone_is_said_and_what_is_counted_is_written_when_it_is_back() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let (path, elsewhere) = (folder.path().join("leaseway.db"), folder.path().join("elsewhere.db"));
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    register(address, "a", &endpoint.url()).await;
    process.line("endpoint is online").await;
    let before = load(address, Duration::from_millis(1), Instant::now() + FLUSH_INTERVAL / 2).await.all_answered();
    until_written(&mut Database::open(&path), before).await;
    Database::open(&path).execute(&format!("VACUUM INTO '{}'", folder.path().join("backup.db").display()));

    fs::rename(&path, &elsewhere).expect("moved away");
    let meanwhile = go_on_without_file(&mut process, address).await;
    assert!(!path.exists(), "no new file is made");
    fs::rename(&elsewhere, &path).expect("moved back");
    process.line("database is back").await;
    process.line("statistics are written again").await;
    until_written(&mut Database::open(&path), before + meanwhile).await;
    assert_eq!(get(address, "/ready").await["status"], "ready");

    for rest in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{rest}", path.display())).expect("removed");
    }
    let without = go_on_without_file(&mut process, address).await;
    fs::write(&path, "").expect("written");
    let ready = get(address, "/ready").await;
    assert!(ready["error"]["message"].as_str().is_some_and(|words| words.contains("the file is empty")), "{ready}");
    fs::copy(folder.path().join("backup.db"), &path).expect("restored");
    process.line("the database file was replaced").await;
    until_written(&mut Database::open(&path), before + without).await;
    register(address, "late", "http://127.0.0.1:9").await;
    process.signal("TERM");
    let said = process.rest().await;
    assert_eq!(said.matches("ERROR").count(), 2, "one clear line each time: {said}");
    let mut database = Database::open(&path);
    database.check();
    assert_eq!(database.number("(SELECT count(*) FROM endpoints)"), 2);
}

#[actix_web::test]
async fn a_stop_without_the_database_file_says_at_once_what_is_lost_and_fails() {
    let (folder, endpoint) = (tempdir().expect("a folder"), FakeEndpoint::start(&["m"]).await);
    let mut process = Process::start(serve(folder.path()));
    let address = process.address().await;
    register(address, "a", &endpoint.url()).await;
    process.line("endpoint is online").await;
    fs::remove_file(folder.path().join("leaseway.db")).expect("removed");
    assert!(ask(address).await);
    let id = get(address, "/api/endpoints").await[0]["id"].as_str().expect("an id").to_owned();
    for path in [format!("/api/endpoints/{id}/model-stats"), "/api/dashboard/model-stats".to_owned()] {
        let error = get(address, &path).await["error"].take();
        assert_eq!(error["code"], "database_unavailable", "{error}");
        assert_eq!(error["message"], "the database file is gone");
    }
    let stopped = Instant::now();
    process.signal("TERM");
    assert_eq!(process.wait().await.code(), Some(1));
    assert!(stopped.elapsed() < Duration::from_secs(10), "the failure is known at once");
    let said = process.rest().await;
    assert!(said.contains("statistics are lost error=\"the database file is gone\""), "{said}");
}

#[actix_web::test]
async fn statistics_that_cannot_be_restored_are_a_warning() {
    let folder = tempdir().expect("a folder");
    let mut process = Process::start(serve(folder.path()));
    process.address().await;
    process.signal("TERM");
    assert!(process.wait().await.success());
    Database::open(&folder.path().join("leaseway.db")).execute("DROP TABLE endpoint_daily_stats");
    let mut process = Process::start(serve(folder.path()));
    process.line("statistics not restored").await;
    assert_eq!(get(process.address().await, "/api/endpoints").await, json!([]));
    process.signal("TERM");
    let said = process.rest().await;
    assert_eq!(said.matches("WARN").count(), 1, "one warning: {said}");
}

#[actix_web::test]
async fn a_file_that_is_no_good_is_named_in_one_line_and_not_touched() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("leaseway.db");
    let mut process = Process::start(serve(folder.path()));
    process.address().await;
    process.signal("TERM");
    assert!(process.wait().await.success());
    let whole = fs::read(&path).expect("a database");
    Database::open(&path).execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    let newer = fs::read(&path).expect("a database");
    for (bytes, reason) in [
        (&whole[..0], "the file is empty"),
        (&whole[..whole.len() / 2], "the database is cut off"),
        (&newer[..], "newer version"),
    ] {
        fs::write(&path, bytes).expect("written");
        let (success, said) = run(serve(folder.path())).await;
        assert!(!success && said.contains("leaseway.db` cannot be used") && said.contains(reason), "{said}");
        assert_eq!(said.lines().count(), 1, "one clear line: {said}");
        assert_eq!(fs::read(&path).expect("still there"), bytes);
    }
}
