//! The composition root: opens the database, starts the actors, connects them, serves HTTP, and stops everything in order.

mod restore;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, Context};
use actix_web::dev::ServerHandle;
use actix_web::http::header::HeaderValue;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use tokio::time::timeout;
use uuid::Uuid;

use self::restore::Restored;
use crate::actors::certificate_keeper::{CertificateKeeper, CurrentTls, ReadCertificate};
use crate::actors::event_hub::{CloseViewers, EventHub};
use crate::actors::history_recorder::{Flush, HistoryRecorder, Upkeep, Writer};
use crate::actors::keyring::{ApplyGiven, Keyring, SaveUses};
use crate::actors::load_manager::{Drain, LeaseDesk, LoadManager, Observe, ObserveBlame};
use crate::actors::persistence::{Checkpoint, Persistence, StoreDesk};
use crate::actors::registry::{ApplyFile, ModelCatalog, Neighbours, Registry, SaveObserved};
use crate::actors::tps_tracker::TpsTracker;
use crate::certificate::CertificateError;
use crate::config::{Config, ConfigError, TlsConfig};
use crate::domain::stored_endpoint::StoredEndpoint;
use crate::http::doors::Doors;
use crate::http::room::Room;
use crate::http::{RetryAfter, Services, middleware, routes, server};
use crate::store::StoreError;
use crate::upstream::client::Upstreams;
use crate::upstream::probe::Prober;

/// The number of messages in an actor's mailbox from which on senders are registered as waiting. This is actix's own default,
/// and not a bound.
const MAILBOX_CAPACITY: usize = 16;

/// How long the last write may take, even if another process has locked the database.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why Leaseway did not start.
#[derive(Debug)]
pub enum StartError {
    /// The certificate of the server or its key cannot be used.
    Certificate(CertificateError),
    /// The database cannot be used.
    Store(StoreError),
    /// Other machines could reach the server, and there is no key.
    OpenAccess(ConfigError),
    /// The server cannot listen on its address.
    Bind {
        /// The address to listen on.
        address: SocketAddr,
        /// Why it cannot be used.
        reason: std::io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Certificate(error) => error.fmt(f),
            StartError::Store(error) => error.fmt(f),
            StartError::OpenAccess(error) => error.fmt(f),
            StartError::Bind { address, reason } => write!(f, "cannot listen on {address}: {reason}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        StartError::Store(error)
    }
}

/// A running Leaseway.
pub struct Leaseway {
    /// The address on which Leaseway listens.
    pub address: SocketAddr,
    /// The settings at the start.
    config: Config,
    server: ServerHandle,
    /// Runs if the server speaks HTTPS.
    keeper: Option<Addr<CertificateKeeper>>,
    registry: Addr<Registry>,
    keyring: Addr<Keyring>,
    load_manager: Addr<LoadManager>,
    history: Addr<HistoryRecorder>,
    persistence: Addr<Persistence>,
    events: Addr<EventHub>,
    draining: Arc<AtomicBool>,
}

/// Starts Leaseway on the current actix system.
///
/// # Errors
/// If the certificate or the database cannot be used, or the address is taken.
pub fn start(config: Config) -> Result<Leaseway, StartError> {
    let keeper = config.tls.clone().map(CertificateKeeper::new).transpose().map_err(StartError::Certificate)?;
    let Restored { store, endpoints: known, past, speeds, keys, used, signer } = Restored::open(&config)?;
    let endpoints = known.len();

    let persistence = Persistence::start(store);
    let store_desk = StoreDesk::new(persistence.clone());
    let events = EventHub::default().start();
    let tps = TpsTracker::new(config.tps.ema_alpha, speeds, events.clone().recipient()).start();
    let writer = Writer { batches: persistence.clone().recipient(), removals: persistence.clone().recipient() };
    let history = HistoryRecorder::new(past, upkeep(&config), writer, events.clone().recipient()).start();
    let (load_manager, mailbox) = Mailbox::<LoadManager>::new();
    let (keyring, published_keys) =
        Keyring::start_with(keys, config.open_access.is_some(), store_desk.clone(), load_manager.clone().recipient());
    load_manager.do_send(used);
    let catalog = Arc::new(ModelCatalog::default());
    let neighbours = Neighbours {
        persistence: persistence.clone(),
        store: store_desk.clone(),
        dispatcher: load_manager.clone().recipient(),
        speeds: tps.clone().recipient(),
        loads: load_manager.clone().recipient(),
        answers: load_manager.clone().recipient(),
        events: events.clone().recipient(),
        catalog: catalog.clone(),
    };
    let registry = start_registry(&config, known, neighbours);
    for observer in [registry.clone().recipient(), tps.clone().recipient(), history.clone().recipient()] {
        load_manager.do_send(Observe(observer));
    }
    load_manager.do_send(ObserveBlame(registry.clone().recipient()));

    let draining = Arc::<AtomicBool>::default();
    let services = web::Data::new(Services {
        desk: LeaseDesk::new(load_manager.clone(), config.queue.timeout),
        load_manager: load_manager.clone(),
        registry: registry.clone(),
        tps,
        history: history.clone(),
        store: store_desk,
        keyring: keyring.clone(),
        keys: published_keys,
        signer,
        has_tls: config.tls.is_some(),
        events: events.clone(),
        catalog,
        client_header: config.queue.client_header.as_deref().and_then(|name| name.parse().ok()),
        max_body_bytes: config.server.max_body_bytes,
        doors: Doors::new(&config.server),
        room: Room::new(config.server.max_buffered_bytes),
        allow_link_local_endpoints: config.server.allow_link_local_endpoints,
        instance: HeaderValue::try_from(Uuid::new_v4().to_string()).expect("a UUID is a header value"),
        retry_after: retry_after(&config),
        draining: draining.clone(),
    });
    let tls = keeper.as_ref().map(CertificateKeeper::current);
    let (address, server) = serve(&config, tls, services, beside_worker(&config, mailbox, &events, &history))?;
    let keeper = keeper.map(CertificateKeeper::start);
    log::info!("Load balancer mode: {}", config.balancer.mode.as_str());
    log::info!("listening address={address} tls={} endpoints={endpoints}", keeper.is_some());
    Ok(Leaseway {
        address,
        config,
        server,
        keeper,
        registry,
        keyring,
        load_manager,
        history,
        persistence,
        events,
        draining,
    })
}

fn start_registry(config: &Config, known: Vec<StoredEndpoint>, neighbours: Neighbours) -> Addr<Registry> {
    let prober = Prober::new(config.upstream.clone(), config.health.timeout);
    Registry::new(known, prober, config.health.clone(), config.balancer.metrics_fresh, neighbours).start()
}

/// Returns what starts LoadManager on the thread of the worker that calls it first.
fn beside_worker(
    config: &Config,
    mailbox: Arc<Mailbox<LoadManager>>,
    events: &Addr<EventHub>,
    history: &Addr<HistoryRecorder>,
) -> impl Fn() + Send + Clone + 'static {
    let (rules, balancing) = (config.queue.rules(), config.balancer.balancing());
    let (events, unserved) = (events.clone(), history.clone());
    move || {
        let (events, unserved) = (events.clone().recipient(), unserved.clone().recipient());
        mailbox.start(|| LoadManager::new(rules, balancing, events, unserved));
    }
}

/// Returns how often statistics are written, and how long history is kept.
fn upkeep(config: &Config) -> Upkeep {
    Upkeep {
        flush_interval: config.database.flush_interval,
        retention: config.database.history_retention,
        history_max_rows: config.database.history_max_rows,
    }
}

/// Returns when a refused client may come again, in seconds from 1 to 60.
fn retry_after(config: &Config) -> RetryAfter {
    RetryAfter {
        queue_full: config.queue.timeout.as_secs().clamp(1, 60),
        no_endpoint: config.health.interval.as_secs().clamp(1, 60),
    }
}

/// The mailbox of an actor that has not started yet; `None` inside once it has.
struct Mailbox<A: Actor>(Mutex<Option<AddressReceiver<A>>>);

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    fn new() -> (Addr<A>, Arc<Self>) {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        (Addr::new(sender), Arc::new(Self(Mutex::new(Some(receiver)))))
    }

    /// Starts the actor on the current thread, unless it has started already.
    fn start(&self, make: impl FnOnce() -> A) {
        let receiver = self.0.lock().ok().and_then(|mut receiver| receiver.take());
        if let Some(receiver) = receiver {
            Context::with_receiver(receiver).run(make());
        }
    }
}

/// Serves HTTP. Every worker calls `beside_worker` when it starts.
///
/// LoadManager lives on the thread of the first worker. A message to another thread costs a wake-up, which takes longer than
/// all work of LoadManager for a request.
fn serve(
    config: &Config,
    tls: Option<CurrentTls>,
    services: web::Data<Services>,
    beside_worker: impl Fn() + Send + Clone + 'static,
) -> Result<(SocketAddr, ServerHandle), StartError> {
    let upstream = config.upstream.clone();
    let app = move || {
        beside_worker();
        App::new()
            .wrap(from_fn(middleware::frame))
            .app_data(services.clone())
            .app_data(Upstreams::start(upstream.clone(), services.instance.clone()))
            .configure(routes)
    };
    let bound = server::serve(config, tls, app);
    let (address, server) = bound.map_err(|reason| StartError::Bind { address: config.server.bind, reason })?;
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Ok((address, handle))
}

impl Leaseway {
    /// Applies the endpoints, keys and certificate of settings that were read again. Other changes of the settings take effect at
    /// the next start, as does HTTPS instead of HTTP and the other way round.
    pub fn reload(&self, config: Config) -> impl Future<Output = ()> + 'static {
        if let Some(files) = config.tls.clone() {
            self.read_certificate(Some(files));
        }
        let waiting = self.config.sections_changed(&config);
        if !waiting.is_empty() {
            log::warn!("changes take effect at the next start sections={}", waiting.join(","));
        }
        let applied = self.registry.send(ApplyFile(config.endpoints));
        let keys_applied = self.keyring.send(ApplyGiven(config.keys));
        async {
            match keys_applied.await {
                Ok(Ok((changed, removed))) => log::info!("keys applied keys_changed={changed} keys_removed={removed}"),
                Ok(Err(error)) => log::error!("keys of the config file not applied: {error}"),
                Err(_) => log::error!("keys of the config file not applied: a part of Leaseway gives no answer"),
            }
            match applied.await {
                Ok(Ok(Some((changed, removed)))) => {
                    log::info!("config file applied endpoints_changed={changed} endpoints_removed={removed}");
                }
                Ok(Ok(None)) => log::info!("config file was read again before it was applied"),
                Ok(Err(error)) => log::error!("config file not applied: {error}"),
                Err(_) => log::error!("config file not applied: a part of Leaseway gives no answer"),
            }
        }
    }

    /// Reads the certificate again, from `files` if they are given. Returns false if the server speaks plain HTTP.
    pub fn read_certificate(&self, files: Option<TlsConfig>) -> bool {
        if let Some(keeper) = &self.keeper {
            keeper.do_send(ReadCertificate { files });
        }
        self.keeper.is_some()
    }

    /// Stops in order: refuses waiting and new requests, lets running requests finish within `grace`, closes the sessions of
    /// viewers, writes all statistics, and only then stops listening. Returns false if statistics are lost.
    pub async fn stop(self, grace: Duration) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        log::info!("stopping grace_secs={}", grace.as_secs());
        let answered = self.load_manager.send(Drain { grace }).await;
        let told = self.events.send(CloseViewers).await;
        if answered.is_err() || told.is_err() {
            log::error!("a part of Leaseway stopped too early");
        }
        let mut written = self.write().await;
        let nothing_cut = answered.is_ok_and(|cut| cut == 0);
        self.server.stop(nothing_cut).await;
        // Requests that were refused until the server stopped are counted, too.
        if written.is_ok() {
            written = self.write().await;
        }
        if let Err(error) = &written {
            log::error!("statistics are lost error=\"{error}\"");
        }
        log::info!("stopped");
        written.is_ok()
    }

    /// Writes everything that must outlive the process. Tries again for [`WRITE_TIMEOUT`], unless the file is away.
    ///
    /// # Errors
    /// Why not all of it was written.
    async fn write(&self) -> Result<(), String> {
        let mut reason = format!("the database gives no answer within {} s", WRITE_TIMEOUT.as_secs());
        let write = async {
            loop {
                match self.history.send(Flush).await.map_err(|error| error.to_string())? {
                    Ok(()) => break,
                    Err(error @ StoreError::Away(_)) => return Err(error.to_string()),
                    Err(error) => reason = error.to_string(),
                }
            }
            self.registry.send(SaveObserved).await.map_err(|error| error.to_string())?;
            self.keyring.send(SaveUses).await.map_err(|error| error.to_string())?;
            let checked = self.persistence.send(Checkpoint).await.map_err(|error| error.to_string())?;
            checked.map_err(|error| error.to_string())
        };
        let written = timeout(WRITE_TIMEOUT, write).await;
        written.unwrap_or(Err(reason))
    }
}
