//! Command line → settings → logging → run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use leaseway::app::{Leaseway, StartError};
use leaseway::command::KeysCommand;
use leaseway::config::{self, Config, ConfigError};
use leaseway::domain::keys::{GRACE_MAX_SECS, Scope};
use leaseway::upstream::operator::Server;
use leaseway::{app, certificate, demo};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is logged unless `RUST_LOG` says otherwise.
const LOG_FILTER: &str = "info,actix_server=warn";

/// The part of actix that logs an error when a client sends what cannot be parsed, or when an endpoint breaks its answer off.
/// Nobody must act on either; Leaseway logs both itself.
const NOT_LOGGED: &str = "actix_http::h1::dispatcher";

/// A load balancer for self-hosted LLM servers.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The config file; without one the defaults hold.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves (the default).
    Serve,
    /// Serves with three simulated endpoints, instead of those of the config file, and light traffic, keeping nothing on disk.
    Demo,
    /// Lists every mistake in a config file.
    CheckConfig { file: PathBuf },
    /// Manages the keys of a running Leaseway, or, with --database, of one that is stopped.
    Keys {
        #[command(subcommand)]
        command: Keys,
        /// The address of the running Leaseway. Its admin key is read from the environment variable LEASEWAY_KEY.
        #[arg(long, global = true, default_value = "http://127.0.0.1:8420")]
        url: String,
        /// The database of a Leaseway that is stopped, as sqlite://leaseway.db.
        #[arg(long, global = true, conflicts_with = "url")]
        database: Option<String>,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// Makes a key and prints it.
    Add {
        /// The name of the key.
        name: String,
        /// What the key may be used for; can be given several times.
        #[arg(long = "scope", value_parser = scope, default_value = "inference")]
        scopes: Vec<Scope>,
    },
    /// Lists the keys.
    List,
    /// Removes a key.
    Revoke {
        /// The name of the key.
        name: String,
    },
    /// Exchanges a key for a new one and prints it.
    Rotate {
        /// The name of the key.
        name: String,
        /// How long the old one stays valid, in seconds.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=GRACE_MAX_SECS))]
        grace_secs: u64,
    },
}

fn scope(name: &str) -> Result<Scope, String> {
    Scope::from_name(name).ok_or_else(|| format!("allowed are {}", Scope::ALL.map(Scope::as_str).join(", ")))
}

fn main() -> ExitCode {
    let Arguments { command, config: file } = Arguments::parse();
    match command.unwrap_or(Command::Serve) {
        Command::Keys { command, url, database } => manage_keys(command, url, database),
        Command::Serve => with_config(file.clone(), |config| run(config, file, app::start)),
        Command::Demo => with_config(file, |config| run(config, None, demo::start)),
        Command::CheckConfig { .. } if file.is_some() => {
            let message = "check-config takes the file as its argument, not as --config";
            Arguments::command().error(ErrorKind::ArgumentConflict, message).exit()
        }
        Command::CheckConfig { file } => with_config(Some(file.clone()), |config| check(&file, &config)),
    }
}

/// Carries out a command about keys and prints what comes of it.
fn manage_keys(command: Keys, url: String, database: Option<String>) -> ExitCode {
    let command = match command {
        Keys::Add { name, scopes } => KeysCommand::Add { name, scopes },
        Keys::List => KeysCommand::List,
        Keys::Revoke { name } => KeysCommand::Revoke(name),
        Keys::Rotate { name, grace_secs } => KeysCommand::Rotate { name, grace_secs },
    };
    let said = match database {
        Some(database) => command.on_database(&database),
        None => {
            let key = config::environment().into_iter().find(|(name, _)| name == "LEASEWAY_KEY").map(|(_, key)| key);
            let (defaults, _) = config::load(None, &[]).expect("the defaults are valid");
            let server = Server { url, key };
            actix::System::new().block_on(command.on_server(&server, &defaults.upstream))
        }
    };
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn with_config(file: Option<PathBuf>, act: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let environment = config::environment();
    match config::load(file.as_deref(), &environment) {
        Ok((config, warnings)) => {
            let environment = env_logger::Env::default().default_filter_or(LOG_FILTER);
            env_logger::Builder::from_env(environment).filter_module(NOT_LOGGED, log::LevelFilter::Off).init();
            for warning in warnings {
                log::warn!("{warning}");
            }
            act(config)
        }
        Err(errors) => report(&errors),
    }
}

/// Checks what a config file without mistakes names. `file` is the config file.
fn check(file: &Path, config: &Config) -> ExitCode {
    if let Some(error) = config.open_access.clone().filter(|_| config.keys.is_empty()) {
        return report(&[error]);
    }
    if let Some(Err(error)) = config.tls.as_ref().map(certificate::read) {
        eprintln!("{}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    println!("{}: no mistakes", file.display());
    ExitCode::SUCCESS
}

fn report(errors: &[ConfigError]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

/// Starts Leaseway and serves until a signal asks it to stop. At `SIGHUP` it reads `file` again.
fn run(config: Config, file: Option<PathBuf>, start: fn(Config) -> Result<Leaseway, StartError>) -> ExitCode {
    actix::System::new().block_on(async {
        let grace = config.server.shutdown_grace;
        // Signals are received before anything starts, so that whatever starts can be stopped.
        let mut signals = match signals() {
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
                // Actors that have started must not run on without their system.
                std::process::exit(1)
            }
        };
        while signals.recv().await == Some(Wish::Reload) {
            reload(&leaseway, file.as_deref());
        }
        let second_stop = async { while signals.recv().await == Some(Wish::Reload) {} };
        tokio::select! {
            is_whole = leaseway.stop(grace) => if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            () = second_stop => {
                log::warn!("second signal, stopping at once");
                std::process::exit(1)
            }
        }
    })
}

/// Reads the config file and the certificate again. A file with a mistake changes nothing.
fn reload(leaseway: &Leaseway, file: Option<&Path>) {
    let Some(file) = file else {
        if !leaseway.read_certificate(None) {
            log::warn!("SIGHUP has no effect: there is no config file and no certificate");
        }
        return;
    };
    match config::load(Some(file), &config::environment()) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            actix::spawn(leaseway.reload(config));
        }
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("config file not applied: {error}"));
            leaseway.read_certificate(None);
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Reload,
}

/// Receives `SIGTERM`, `SIGINT` and `SIGHUP`.
fn signals() -> std::io::Result<mpsc::Receiver<Wish>> {
    let (sender, receiver) = mpsc::channel(2);
    let kinds = [
        (SignalKind::terminate(), Wish::Stop),
        (SignalKind::interrupt(), Wish::Stop),
        (SignalKind::hangup(), Wish::Reload),
    ];
    for (kind, wish) in kinds {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        actix::spawn(async move { while signals.recv().await.is_some() && sender.send(wish).await.is_ok() {} });
    }
    Ok(receiver)
}
