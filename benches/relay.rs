//! The cost of Leaseway itself: memory when idle, CPU time per relayed request.
//!
//! Runs the release binary between a client with 64 connections and an endpoint that answers at once, all on loopback,
//! and reads the binary's own CPU time and memory from `/proc`. Ends by itself. `cargo bench --bench relay`.

mod support;

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;

use self::support::{Leaseway, Setup, ask_once, start_endpoint};

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 60_000;
/// Requests after which memory is measured again.
const MANY_REQUESTS: usize = 200_000;
const SETUPS: [(&str, Setup); 8] = [
    ("one worker", Setup { workers: 1, flush_interval_ms: 500, keys: 0 }),
    ("one worker, one key", Setup { workers: 1, flush_interval_ms: 500, keys: 1 }),
    ("one worker, 10,000 keys, limits on", Setup { workers: 1, flush_interval_ms: 500, keys: 10_000 }),
    ("one worker", Setup { workers: 1, flush_interval_ms: 500, keys: 0 }),
    ("one worker, one key", Setup { workers: 1, flush_interval_ms: 500, keys: 1 }),
    ("one worker, 10,000 keys, limits on", Setup { workers: 1, flush_interval_ms: 500, keys: 10_000 }),
    ("one worker, nothing written", Setup { workers: 1, flush_interval_ms: 60_000, keys: 0 }),
    ("two workers", Setup { workers: 2, flush_interval_ms: 500, keys: 0 }),
];

/// Sends requests one after the other on one connection.
async fn ask(address: SocketAddr, requests: usize) {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.set_nodelay(true).expect("an option");
    for _ in 0..requests {
        ask_once(&mut socket).await;
    }
}

async fn load(address: SocketAddr, requests: usize) {
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(ask(address, requests / CONNECTIONS));
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client");
    }
}

#[actix_web::main]
async fn main() {
    let endpoint = start_endpoint().await;
    for (name, setup) in &SETUPS {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let started = tokio::task::spawn_blocking(move || Leaseway::start(endpoint, setup, &path));
        let (leaseway, address) = started.await.expect("it starts");
        let idle = leaseway.resident_mib();
        load(address, REQUESTS / 3).await;
        let warm = leaseway.resident_mib();
        let (cpu_before, started) = (leaseway.cpu_time(), Instant::now());
        load(address, REQUESTS).await;
        let (cpu, elapsed) = (leaseway.cpu_time() - cpu_before, started.elapsed());
        println!(
            "{}: {idle:.1} MiB idle, {:.1} µs CPU per request, {:.0} requests/s",
            name,
            cpu.as_secs_f64() * 1e6 / REQUESTS as f64,
            REQUESTS as f64 / elapsed.as_secs_f64(),
        );
        load(address, MANY_REQUESTS - REQUESTS).await;
        println!(
            "    {warm:.1} MiB after {} requests, {:.1} MiB after {MANY_REQUESTS} more",
            REQUESTS / 3,
            leaseway.resident_mib()
        );
    }
}
