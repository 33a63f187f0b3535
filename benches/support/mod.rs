//! The release binary under load, its own CPU time and memory read from `/proc`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Linux reports CPU time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

const MODELS: &str = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;
const ANSWER: &str = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":7}}"#;

/// The key that is sent with every request.
const KEY: &str = "lw_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

/// The figures that are compared.
pub struct Setup {
    pub workers: usize,
    pub flush_interval_ms: u32,
    /// How many keys there are; 0: access is open. With more than one, the key in use has limits that it never reaches.
    pub keys: usize,
}

/// A running binary.
pub struct Leaseway(Child);

impl Drop for Leaseway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Leaseway {
    pub fn start(endpoint: SocketAddr, setup: &Setup, folder: &std::path::Path) -> (Self, SocketAddr) {
        let config = folder.join("bench.toml");
        let block = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"http://{endpoint}\"\nmax_concurrency = 1000\n");
        let name = |number| format!("[[keys]]\nname = \"{number}\"\n");
        let others = (1..setup.keys).map(|number| format!("{}key_sha256 = \"{number:064x}\"\n", name(number)));
        let limits = "requests_per_minute = 1000000000\ntokens_per_minute = 1000000000000\n\
            tokens_per_day = 1000000000000\nmax_concurrency = 1000000\nmax_waiting = 1000000\n";
        let limits = if setup.keys > 1 { limits } else { "" };
        let own = (setup.keys > 0).then(|| format!("{}key_env = \"BENCH_KEY\"\n{limits}", name(0)));
        fs::write(&config, others.chain(own).collect::<String>() + &block).expect("a config file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_leaseway"))
            .args(["serve", "--config"])
            .arg(&config)
            .env("LEASEWAY_SERVER__BIND", "127.0.0.1:0")
            .env("BENCH_KEY", KEY)
            .env("LEASEWAY_SERVER__WORKERS", setup.workers.to_string())
            .env("LEASEWAY_DATABASE__FLUSH_INTERVAL_MS", setup.flush_interval_ms.to_string())
            .env("LEASEWAY_DATABASE__URL", format!("sqlite://{}", folder.join("bench.db").display()))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let mut address = None;
        for line in BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok) {
            if let Some(rest) = line.split("address=").nth(1) {
                address = rest.split(' ').next().and_then(|address| address.parse().ok());
            }
            if line.contains("endpoint is online") {
                break;
            }
        }
        (Self(child), address.expect("it says where it listens"))
    }

    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("its statistics");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: u32 = fields[11..13].iter().map(|field| field.parse::<u32>().expect("a number")).sum();
        TICK * ticks
    }

    pub fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }
}

/// Starts an endpoint that answers at once.
pub async fn start_endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    actix_web::rt::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).expect("an option");
            actix_web::rt::spawn(answer(socket));
        }
    });
    address
}

/// Answers every request on a connection at once.
async fn answer(mut socket: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = socket.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let body = if buffer.starts_with(b"GET") { MODELS } else { ANSWER };
        let length = body.len();
        let text =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        if socket.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Sends one request and reads its answer.
pub async fn ask_once(socket: &mut TcpStream) {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let text = format!("{head}authorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{body}");
    socket.write_all(text.as_bytes()).await.expect("sent");
    let mut buffer = [0; 4096];
    let mut read = 0;
    while !buffer[..read].ends_with(b"7}}") {
        let count = socket.read(&mut buffer[read..]).await.expect("read");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&buffer[..read]));
        read += count;
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
}
