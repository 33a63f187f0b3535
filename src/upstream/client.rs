//! HTTP clients: one for each endpoint and thread, so that the idle connections of an endpoint are closed with its client.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::header::HeaderValue;
pub use awc::Client;
use awc::Connector;
use rustls::{ClientConfig, RootCertStore};

use super::socket::EndpointConnector;
use super::wire::Peer;
use crate::clock;
use crate::config::UpstreamConfig;
use crate::domain::ids::EndpointId;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// How long awc keeps a connection; a connection in use stays open longer.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Creates a client that has no total timeout and no limit of connections, and does not follow redirects.
pub fn build_client(config: &UpstreamConfig, https: bool) -> Client {
    build_client_of(config, https, Rc::default())
}

fn build_client_of(config: &UpstreamConfig, https: bool, peer: Rc<Peer>) -> Client {
    let mut connector = Connector::new()
        .connector(EndpointConnector::new(config.tcp_keepalive, https, peer))
        .timeout(config.connect_timeout)
        .handshake_timeout(config.connect_timeout)
        .conn_keep_alive(config.pool_idle_timeout)
        .conn_lifetime(CONNECTION_LIFETIME)
        .limit(0);
    if https {
        connector = connector.rustls_0_23(tls_config());
    }
    Client::builder().connector(connector).disable_timeout().disable_redirects().no_default_headers().finish()
}

/// Returns the TLS settings with the certificate authorities of this machine, which are read once, when first needed.
fn tls_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let build = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            log::warn!("certificate authority not read error=\"{error}\"");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            log::warn!("no certificate authorities found, https endpoints cannot be reached");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    };
    CONFIG.get_or_init(build).clone()
}

/// A client for an endpoint, with the state that its connections share.
#[derive(Clone)]
pub struct Route {
    /// The client that sends the requests.
    pub client: Client,
    /// The state that the connections of the client share.
    pub peer: Rc<Peer>,
}

/// A kept client and its last use.
struct EndpointClient {
    target: Arc<Target>,
    route: Route,
    used: Moment,
}

/// The clients of one thread, by endpoint.
pub struct Upstreams {
    /// The settings of section `upstream`.
    pub config: UpstreamConfig,
    /// The id of this Leaseway, which every request to an endpoint carries.
    pub instance: HeaderValue,
    clients: RefCell<HashMap<EndpointId, EndpointClient>>,
    /// The number of connections that this thread watches.
    watched: Rc<Cell<usize>>,
}

impl Upstreams {
    /// Creates the clients of this thread, and drops unused ones regularly for as long as the thread serves.
    pub fn start(config: UpstreamConfig, instance: HeaderValue) -> Rc<Self> {
        let interval = config.pool_idle_timeout.max(Duration::from_secs(1));
        let upstreams = Rc::new(Self { config, instance, clients: RefCell::default(), watched: Rc::default() });
        let weak = Rc::downgrade(&upstreams);
        actix_web::rt::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(upstreams) = weak.upgrade() else { return };
                upstreams.drop_unused(clock::now());
            }
        });
        upstreams
    }

    /// Returns the route to a target. Its connections are kept, unless the target was caught sending answers that no request
    /// asked for.
    pub fn route(&self, target: &Arc<Target>) -> Route {
        let mut clients = self.clients.borrow_mut();
        let used = clock::now();
        if target.is_caught(used) {
            clients.remove(&target.id);
            return self.fresh_route(target);
        }
        if let Some(known) = clients.get_mut(&target.id)
            && known.target.is_same_server(target)
        {
            known.used = used;
            return known.route.clone();
        }
        let route = self.build_route(&self.config, target, false);
        clients.insert(target.id, EndpointClient { target: target.clone(), route: route.clone(), used });
        route
    }

    /// Returns a route to a target over a new connection, which is not kept.
    pub fn fresh_route(&self, target: &Arc<Target>) -> Route {
        let config = UpstreamConfig { pool_idle_timeout: Duration::ZERO, ..self.config.clone() };
        self.build_route(&config, target, true)
    }

    fn build_route(&self, config: &UpstreamConfig, target: &Arc<Target>, is_fresh: bool) -> Route {
        let peer = Rc::new(Peer::new(target.clone(), is_fresh, self.watched.clone()));
        Route { client: build_client_of(config, target.is_https(), peer.clone()), peer }
    }

    /// Drops the clients of endpoints that have had no request for `pool_idle_timeout`. This closes their idle connections, which
    /// awc itself would keep until the next request. Running requests go on.
    fn drop_unused(&self, now: Moment) {
        let keep = self.config.pool_idle_timeout;
        self.clients.borrow_mut().retain(|_, known| now.since(known.used) < keep);
    }
}
