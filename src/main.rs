//! Command line → settings → logging → run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leaseway::app::{Leaseway, StartError};
use leaseway::config::{self, Config, ConfigError};
use leaseway::{app, demo};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is logged unless `RUST_LOG` says otherwise. actix-http calls an answer that its endpoint broke off an error, which
/// Leaseway has logged and told the client.
const LOG_FILTER: &str = "info,actix_server=warn,actix_http=off";

/// A load balancer for self-hosted LLM servers.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Serves (the default).
    Serve(ServeArguments),
    /// Serves with three simulated endpoints and light traffic, keeping nothing on disk.
    Demo,
    /// Lists every mistake in a config file.
    CheckConfig { file: PathBuf },
}

#[derive(clap::Args)]
struct ServeArguments {
    /// The config file; without one the defaults hold.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(serve) => with_config(serve.config, |config| run(config, app::start)),
        Command::Demo => with_config(None, |config| run(config, demo::start)),
        Command::CheckConfig { file } => with_config(Some(file.clone()), |_| {
            println!("{}: no mistakes", file.display());
            ExitCode::SUCCESS
        }),
    }
}

fn with_config(file: Option<PathBuf>, act: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let environment = config::environment();
    match config::load(file.as_deref(), &environment) {
        Ok((config, warnings)) => {
            env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(LOG_FILTER)).init();
            for warning in warnings {
                log::warn!("{warning}");
            }
            act(config)
        }
        Err(errors) => report(&errors),
    }
}

fn report(errors: &[ConfigError]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

/// Starts Leaseway and serves until a signal asks it to stop.
fn run(config: Config, start: fn(Config) -> Result<Leaseway, StartError>) -> ExitCode {
    actix::System::new().block_on(async {
        let grace = config.server.shutdown_grace;
        // Before anything can be asked to stop that has started.
        let mut signals = match stop_signals() {
            Ok(signals) => signals,
            Err(error) => {
                log::error!("signals cannot be received: {error}");
                return ExitCode::FAILURE;
            }
        };
        let leaseway = match start(config) {
            Ok(leaseway) => leaseway,
            Err(error) => {
                log::error!("{error}");
                // Actors that have started are not to run on without their system.
                std::process::exit(1)
            }
        };
        signals.recv().await;
        tokio::select! {
            () = leaseway.stop(grace) => ExitCode::SUCCESS,
            _ = signals.recv() => {
                log::warn!("second signal, stopping at once");
                std::process::exit(1)
            }
        }
    })
}

/// Receives `SIGTERM` and `SIGINT`. `SIGHUP`, which others read their settings at, does not end the process.
fn stop_signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut hangups = signal(SignalKind::hangup())?;
    actix::spawn(async move {
        while hangups.recv().await.is_some() {
            log::warn!("SIGHUP has no effect: the config file is read at start only");
        }
    });
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        actix::spawn(async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} });
    }
    Ok(receiver)
}
