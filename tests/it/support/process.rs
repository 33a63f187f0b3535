//! The real binary as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::sync::mpsc;

use super::{PATIENCE, soon};

/// A running `leaseway`; killed when dropped.
pub struct Process {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    said: Vec<String>,
}

/// Prepares a `leaseway` command with an empty environment.
pub fn leaseway(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaseway"));
    command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
    // A busy machine must not make a healthy endpoint look slow.
    command.env("LEASEWAY_HEALTH__TIMEOUT_SECS", PATIENCE.as_secs().to_string());
    command
}

/// Runs a command that ends by itself. Returns whether it succeeded, and its output.
pub async fn run(command: Command) -> (bool, String) {
    let mut process = Process::start(command);
    let said = process.rest().await;
    (process.wait().await.success(), said)
}

impl Process {
    /// Starts a command that keeps running.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let (sender, lines) = mpsc::unbounded_channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, said: Vec::new() }
    }

    /// Returns the first line of output that contains `part`, waiting for it if necessary. Lines of stdout and stderr come in
    /// any order.
    pub async fn line(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.said.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match soon(part, self.lines.recv()).await {
                Some(line) => self.said.push(line),
                None => panic!("no line with `{part}` in {:#?}", self.said),
            }
        }
    }

    /// Returns the address on which it listens, from its log.
    pub async fn address(&mut self) -> SocketAddr {
        let line = self.line("listening address=").await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line}"))
    }

    /// Returns how many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process").count()
    }

    /// Removes the limit on the size of its files.
    pub fn allow_large_files(&self) {
        let limit = ["--pid", &self.child.id().to_string(), "--fsize=unlimited"];
        assert!(Command::new("prlimit").args(limit).status().expect("prlimit").success());
    }

    /// Sends a signal by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }

    /// Returns its whole output, after it has ended.
    pub async fn rest(&mut self) -> String {
        while let Some(line) = soon("the end of the process", self.lines.recv()).await {
            self.said.push(line);
        }
        self.said.join("\n")
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> ExitStatus {
        self.rest().await;
        self.child.wait().expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
