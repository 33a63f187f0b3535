//! Keys at the command line, in the config file and in the environment, with the real binary.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::tempdir;

use crate::support::RawClient;
use crate::support::process::{Process, leaseway, run};

const ADMIN: &str = "the-secret-of-the-admin";

/// Starts a server where other machines reach it, with these variables.
async fn serve(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Process, SocketAddr) {
    let mut command = leaseway(folder, arguments);
    command.env("LEASEWAY_SERVER__BIND", "0.0.0.0:0").env("RUST_LOG", "debug").envs(variables.iter().copied());
    let mut process = Process::start(command);
    let port = process.address().await.port();
    (process, ([127, 0, 0, 1], port).into())
}

/// Runs `leaseway keys` against a server with the admin's key.
async fn keys(folder: &Path, address: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let url = format!("http://{address}");
    let mut command = leaseway(folder, &[&["keys"], arguments, &["--url", &url]].concat());
    command.env("LEASEWAY_KEY", ADMIN);
    let (success, said) = run(command).await;
    (success, said.trim().to_owned())
}

/// Returns the status of the list of models for this key.
async fn status(address: SocketAddr, key: &str) -> String {
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n");
    let mut client = RawClient::send(address, &request).await;
    client.read_until("\r\n").await[9..12].to_owned()
}

#[actix_web::test]
async fn keys_of_a_running_server_are_managed_at_the_command_line() {
    let folder = tempdir().expect("a folder");
    let (mut process, address) = serve(folder.path(), &["serve"], &[("LEASEWAY_ADMIN_KEY", ADMIN)]).await;
    let (success, chat) = keys(folder.path(), address, &["add", "chat"]).await;
    assert!(success && chat.starts_with("lw_"), "{chat}");
    assert_eq!(status(address, &chat).await, "200");
    let (success, list) = keys(folder.path(), address, &["list"]).await;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(success && lines[0][..3] == ["NAME", "PREFIX", "SOURCE"], "{list}");
    assert_eq!(lines[1][..4], ["LEASEWAY_ADMIN_KEY", "the-secr", "env", "admin"], "{list}");
    assert_eq!(lines[2][..5], ["chat", &chat[..8], "api", "inference", "true"], "{list}");
    let (success, newer) = keys(folder.path(), address, &["rotate", "chat"]).await;
    assert!(success, "{newer}");
    assert_eq!((status(address, &chat).await.as_str(), status(address, &newer).await.as_str()), ("401", "200"));
    assert_eq!(keys(folder.path(), address, &["revoke", "chat"]).await, (true, "revoked chat".to_owned()));
    assert_eq!(status(address, &newer).await, "401");
    for (arguments, reason) in [
        (vec!["revoke", "chat"], "there is no key named `chat`"),
        (vec!["add", "LEASEWAY_ADMIN_KEY"], "answered 409: a key named `LEASEWAY_ADMIN_KEY` already exists"),
        (vec!["add", "x", "--scope", "all"], "allowed are inference, read, report, metrics, admin"),
        (vec!["rotate", "x", "--grace-secs", "2592001"], "2592001 is not in 0..=2592000"),
    ] {
        let (success, said) = keys(folder.path(), address, &arguments).await;
        assert!(!success && said.contains(reason), "{arguments:?}: {said}");
    }
    let (success, said) = keys(folder.path(), ([127, 0, 0, 1], 1).into(), &["list"]).await;
    assert!(!success && said.contains("http://127.0.0.1:1 cannot be reached"), "{said}");
    process.line("request without a valid key address=127.0.0.1 since_last_line=1").await;
    process.signal("TERM");
    let said = process.rest().await;
    for secret in [ADMIN, &chat[8..], &newer[8..]] {
        assert!(!said.contains(secret), "a key is in the log");
    }
}

#[actix_web::test]
async fn keys_of_a_stopped_server_are_managed_in_its_database_and_let_it_listen_to_other_machines() {
    let folder = tempdir().expect("a folder");
    let on_database = async |arguments: &[&str]| {
        let arguments = [&["keys"], arguments, &["--database", "sqlite://leaseway.db"]].concat();
        let (success, said) = run(leaseway(folder.path(), &arguments)).await;
        (success, said.trim().to_owned())
    };
    let (success, root) = on_database(&["add", "root", "--scope", "admin", "--scope", "metrics"]).await;
    assert!(success && root.starts_with("lw_"), "{root}");
    let (success, said) = on_database(&["revoke", "root"]).await;
    assert!(!success && said.contains("`root` is the last one with the scope `admin`"), "{said}");
    let (_, newer) = on_database(&["rotate", "root"]).await;
    let (mut process, address) = serve(folder.path(), &["serve"], &[]).await;
    assert_eq!((status(address, &root).await.as_str(), status(address, &newer).await.as_str()), ("401", "200"));
    process.signal("TERM");
    assert!(process.wait().await.success());
    let (_, list) = on_database(&["list"]).await;
    assert!(list.contains("metrics,admin"), "{list}");
}

#[actix_web::test]
async fn keys_of_the_file_are_read_again() {
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("leaseway.toml");
    let block = |name: &str| format!("[[keys]]\nname = \"{name}\"\nkey_env = \"{name}\"\n");
    fs::write(&file, block("ONE")).expect("written");
    let variables = [("ONE", "the-secret-of-the-first"), ("TWO", "the-secret-of-the-second")];
    let (mut process, address) = serve(folder.path(), &["--config", "leaseway.toml"], &variables).await;
    let both = async || (status(address, variables[0].1).await, status(address, variables[1].1).await);
    assert_eq!(both().await, ("200".to_owned(), "401".to_owned()));
    fs::write(&file, block("TWO")).expect("written");
    process.signal("HUP");
    process.line("keys applied keys_changed=1 keys_removed=1").await;
    assert_eq!(both().await, ("401".to_owned(), "200".to_owned()));
    fs::write(&file, "").expect("written");
    process.signal("HUP");
    process.line("keys applied keys_changed=0 keys_removed=1").await;
    assert_eq!(both().await, ("401".to_owned(), "401".to_owned()), "nobody is let in who reaches it from elsewhere");
}
