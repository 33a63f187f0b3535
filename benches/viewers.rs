//! The cost of viewers: CPU time and latency of requests, and memory, without viewers and with two hundred, five of which do
//! not read.
//!
//! Runs the release binary at 2,000 requests/s between a client and an endpoint that answers at once, all on loopback. Ends
//! by itself. `cargo bench --bench viewers`.

mod support;

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use self::support::{Leaseway, Setup, ask_once, start_endpoint};

const VIEWERS: usize = 200;
const NOT_READING: usize = 5;
const CLIENTS: usize = 20;
const REQUESTS_PER_SECOND: u32 = 2000;
const DURATION: Duration = Duration::from_secs(10);

const HANDSHAKE: &str = "GET /ws/dashboard HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[actix_web::main]
async fn main() {
    let endpoint = start_endpoint().await;
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup { workers: 1, flush_interval_ms: 500, keys: 0 };
    let path = folder.path().to_owned();
    let started = tokio::task::spawn_blocking(move || Leaseway::start(endpoint, &setup, &path));
    let (leaseway, address) = started.await.expect("it starts");
    let mut viewers = JoinSet::new();
    let mut stalled = Vec::new();
    for round in ["no viewers", "no viewers", "200 viewers, 5 of them not reading", "the same"] {
        if round.starts_with("200") {
            for number in 0..VIEWERS {
                let mut socket = TcpStream::connect(address).await.expect("a connection");
                socket.write_all(HANDSHAKE.as_bytes()).await.expect("sent");
                if number < NOT_READING {
                    stalled.push(socket);
                } else {
                    viewers.spawn(async move {
                        let (mut buffer, mut read) = (vec![0; 64 * 1024], 0);
                        while let Ok(count) = socket.read(&mut buffer).await {
                            if count == 0 {
                                break;
                            }
                            read += count;
                        }
                        read
                    });
                }
            }
        }
        let cpu_before = leaseway.cpu_time();
        let mut latencies = load(address).await;
        let cpu = leaseway.cpu_time() - cpu_before;
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!(
            "{round}: {} requests, half within {:.2} ms, 99 % within {:.2} ms, {:.1} µs CPU for each, {:.1} MiB resident",
            latencies.len(),
            at(0.5),
            at(0.99),
            cpu.as_secs_f64() * 1e6 / latencies.len() as f64,
            leaseway.resident_mib(),
        );
    }
    drop(leaseway);
    let mut read = Vec::new();
    while let Some(viewer) = viewers.join_next().await {
        read.push(viewer.expect("a viewer"));
    }
    println!("each viewer has read {} KiB", read.iter().sum::<usize>() / read.len() / 1024);
}

/// Sends requests at a steady pace and returns how long each answer took.
async fn load(address: std::net::SocketAddr) -> Vec<Duration> {
    let mut clients = JoinSet::new();
    let ends = Instant::now() + DURATION;
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("a connection");
            socket.set_nodelay(true).expect("an option");
            let mut ticks = interval(Duration::from_secs(1) * CLIENTS as u32 / REQUESTS_PER_SECOND);
            let mut latencies = Vec::new();
            while Instant::now() < ends {
                ticks.tick().await;
                let asked = Instant::now();
                ask_once(&mut socket).await;
                latencies.push(asked.elapsed());
            }
            latencies
        });
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client.expect("a client"));
    }
    latencies
}
