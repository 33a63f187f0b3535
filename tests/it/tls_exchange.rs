//! The certificate of the real binary: refused, read, and exchanged.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use tempfile::{TempDir, tempdir};

use crate::support::certificates::{Authority, Issued};
use crate::support::process::{Process, leaseway, run};
use crate::support::{FakeEndpoint, RawClient, chat, soon};

const CHAT: &str = "/v1/chat/completions";

/// A Leaseway whose certificate is in `cert.pem` and `key.pem` beside its config file.
struct Server {
    authority: Authority,
    folder: TempDir,
    process: Process,
    address: SocketAddr,
}

/// The text of a section `tls` with these files.
fn section(cert: &Path, key: &Path) -> String {
    format!("[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n")
}

impl Server {
    async fn start(first: &str, more: &str) -> (Self, Issued) {
        let (authority, folder) = (Authority::new(), tempdir().expect("a folder"));
        let issued = authority.issue(first);
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        issued.install(&cert, &key);
        fs::write(folder.path().join("leaseway.toml"), section(&cert, &key) + more).expect("written");
        let mut command = leaseway(folder.path(), &["serve", "--config", "leaseway.toml"]);
        command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
        let mut process = Process::start(command);
        let address = process.address().await;
        process.line("tls=true").await;
        (Self { authority, folder, process, address }, issued)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a certificate in the place of the one that is served.
    fn install(&self, issued: &Issued) {
        issued.install(&self.at("cert.pem"), &self.at("key.pem"));
    }

    /// Checks which certificate a new connection gets.
    async fn serves(&self, issued: &Issued) {
        assert_eq!(self.authority.trust().certificate_of(self.address).await, issued.certificate);
    }

    /// Waits until new connections get this certificate.
    async fn until_serves(&self, issued: &Issued) {
        let trust = self.authority.trust();
        let exchanged = async { while trust.certificate_of(self.address).await != issued.certificate {} };
        soon("the new certificate", exchanged).await;
    }

    /// Stops it and returns all that it said.
    async fn stop(mut self) -> String {
        self.process.signal("TERM");
        let said = self.process.rest().await;
        assert!(self.process.wait().await.success(), "{said}");
        said
    }
}

#[actix_web::test]
async fn a_certificate_is_exchanged_at_a_hangup_while_requests_run() {
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let block = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{}\"\nmax_concurrency = 50\n", endpoint.url());
    let (mut server, _) = Server::start("first", &block).await;
    server.process.line("endpoint is online").await;
    let (address, trust) = (server.address, server.authority.trust());
    endpoint.hold();
    let mut running = RawClient::post_over_tls(address, &trust, CHAT, &chat("m", true)).await;
    endpoint.until("the stream runs", |counts| counts.in_flight == 1).await;
    for round in 0..3 {
        let next = server.authority.issue(&format!("next-{round}"));
        server.install(&next);
        server.process.signal("HUP");
        // Every client makes new connections, with a request each, until it gets the new certificate.
        let client = async || {
            loop {
                let get = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                let answer = RawClient::send_over_tls(address, &trust, get).await.read_to_end().await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                if trust.certificate_of(address).await == next.certificate {
                    return;
                }
            }
        };
        soon("the new certificate for all", join_all((0..8).map(|_| client()))).await;
    }
    endpoint.release(1);
    running.read_until("[DONE]").await;
    let said = server.stop().await;
    assert!(said.contains("certificate read cert_file=") && !said.contains("ERROR"), "{said}");
}

#[actix_web::test]
async fn changed_files_are_noticed_and_a_broken_pair_is_one_error() {
    let (mut server, first) = Server::start("first", "").await;
    fs::write(server.at("cert.pem"), "no certificate").expect("written");
    let said = server.process.line("certificate not read").await;
    assert!(said.contains("ERROR") && said.contains("cert.pem` holds no certificate in PEM form"), "{said}");
    server.serves(&first).await;
    // The error is looked at twice before this pair is read.
    let second = server.authority.issue("second");
    server.install(&second);
    server.until_serves(&second).await;
    let said = server.stop().await;
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");
}

#[actix_web::test]
async fn a_broken_pair_is_not_taken_at_a_hangup_either() {
    let (mut server, first) = Server::start("first", "").await;
    fs::remove_file(server.at("key.pem")).expect("removed");
    server.process.signal("HUP");
    server.process.line("key.pem` cannot be read").await;
    server.serves(&first).await;
    let second = server.authority.issue("second");
    fs::copy(&second.files.key_file, server.at("key.pem")).expect("copied");
    server.process.signal("HUP");
    server.process.line("key.pem` does not belong to the certificate").await;
    server.serves(&first).await;
    // A mistake in the config file does not keep a good pair from being read.
    server.install(&second);
    let text = fs::read_to_string(server.at("leaseway.toml")).expect("readable");
    fs::write(server.at("leaseway.toml"), text + "[tps]\nema_alpha = 7\n").expect("written");
    server.process.signal("HUP");
    server.until_serves(&second).await;
    server.process.line("config file not applied").await;
    server.stop().await;
}

#[actix_web::test]
async fn other_files_take_effect_at_a_hangup_and_plain_http_at_the_next_start() {
    let (mut server, first) = Server::start("first", "").await;
    let second = server.authority.issue("second");
    fs::write(server.at("leaseway.toml"), section(&second.files.cert_file, &second.files.key_file)).expect("written");
    server.process.signal("HUP");
    server.until_serves(&second).await;
    fs::write(server.at("leaseway.toml"), "").expect("written");
    server.process.signal("HUP");
    server.process.line("changes take effect at the next start sections=tls").await;
    server.serves(&second).await;
    assert_ne!(first.certificate, second.certificate);
    server.stop().await;
}

#[actix_web::test]
async fn a_pair_that_cannot_be_used_is_refused_at_the_start() {
    let (authority, folder) = (Authority::new(), tempdir().expect("a folder"));
    let (one, other) = (authority.issue("one").files, authority.issue("other").files);
    let check = async |cert: &Path, key: &Path, expected: &str| {
        fs::write(folder.path().join("leaseway.toml"), section(cert, key)).expect("written");
        for arguments in [["serve", "--config", "leaseway.toml"].as_slice(), &["check-config", "leaseway.toml"]] {
            let mut command = leaseway(folder.path(), arguments);
            command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
            let (success, said) = run(command).await;
            assert!(!success && said.contains(expected) && said.lines().count() == 1, "{said}");
        }
        assert!(!folder.path().join("leaseway.db").exists(), "it stops before it makes a database");
    };
    check(&one.cert_file, &other.key_file, "other.key` does not belong to the certificate in tls.cert_file").await;
    check(&folder.path().join("none.pem"), &one.key_file, "none.pem` cannot be read: No such file").await;
    check(&one.key_file, &one.key_file, "one.key` holds no certificate in PEM form").await;
    fs::write(folder.path().join("leaseway.toml"), section(&one.cert_file, &one.key_file)).expect("written");
    let (success, said) = run(leaseway(folder.path(), &["check-config", "leaseway.toml"])).await;
    assert!(success && said.contains("no mistakes"), "{said}");
}

#[actix_web::test]
async fn a_certificate_of_the_environment_is_read_at_a_hangup_without_a_config_file() {
    let (authority, folder) = (Authority::new(), tempdir().expect("a folder"));
    let (first, second) = (authority.issue("first"), authority.issue("second"));
    let mut command = leaseway(folder.path(), &["serve"]);
    command.env("LEASEWAY_SERVER__BIND", "127.0.0.1:0");
    command.env("LEASEWAY_TLS__CERT_FILE", &first.files.cert_file);
    command.env("LEASEWAY_TLS__KEY_FILE", &first.files.key_file);
    let mut process = Process::start(command);
    let address = process.address().await;
    assert_eq!(authority.trust().certificate_of(address).await, first.certificate);
    second.install(&first.files.cert_file, &first.files.key_file);
    process.signal("HUP");
    process.line("certificate read").await;
    assert_eq!(authority.trust().certificate_of(address).await, second.certificate);
    process.signal("TERM");
    assert!(!process.rest().await.contains("SIGHUP has no effect"));
}
