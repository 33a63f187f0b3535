//! The HTTP layer: the routes, their handlers, and the services that handlers use.

mod assets;
mod auth;
mod body;
mod client;
mod client_socket;
mod client_stream;
mod dashboard;
pub mod doors;
mod endpoints;
mod error;
mod frames;
mod health;
mod inference;
mod keys;
pub mod login;
pub mod middleware;
mod models;
mod overview;
mod pace;
mod places;
mod progress;
mod queue;
mod queue_updates;
mod rate_headers;
mod reports;
pub mod room;
mod routes;
pub mod server;
mod serving;
mod session;
mod statistics;
mod transport;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue};
use tokio::time::timeout;

use self::doors::Doors;
use self::error::ApiError;
pub use self::error::RetryAfter;
use self::login::Signer;
use self::room::Room;
pub use self::routes::routes;
use crate::actors::event_hub::EventHub;
use crate::actors::history_recorder::HistoryRecorder;
use crate::actors::keyring::{Keyring, PublishedKeys};
use crate::actors::load_manager::{LeaseDesk, LoadManager};
use crate::actors::persistence::StoreDesk;
use crate::actors::registry::{ModelCatalog, Registry};
use crate::actors::tps_tracker::TpsTracker;

/// How long an actor may take to answer a handler.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a handler returns: a response, or the error that becomes one.
type HttpReply = Result<HttpResponse, ApiError>;

/// What handlers use: the actors that they ask, and the settings that they need.
pub struct Services {
    /// Grants leases to requests.
    pub desk: LeaseDesk,
    /// Answers questions about the queue, leases and selections.
    pub load_manager: Addr<LoadManager>,
    /// Answers questions about endpoints, and changes endpoints.
    pub registry: Addr<Registry>,
    /// Answers questions about speeds.
    pub tps: Addr<TpsTracker>,
    /// Answers questions about the last hour and the totals.
    pub history: Addr<HistoryRecorder>,
    /// Answers questions to the database.
    pub store: StoreDesk,
    /// Answers questions about keys, and changes keys.
    pub keyring: Addr<Keyring>,
    /// The valid keys, read without asking an actor.
    pub keys: Arc<PublishedKeys>,
    /// Signs the sessions of the dashboard.
    pub signer: Signer,
    /// True if the server speaks HTTPS.
    pub has_tls: bool,
    /// Sends events to viewers.
    pub events: Addr<EventHub>,
    /// The models of the online endpoints, read without asking an actor.
    pub catalog: Arc<ModelCatalog>,
    /// The header that names the client; `None` if the client's address names it.
    pub client_header: Option<HeaderName>,
    /// The longest body of an inference request, in bytes.
    pub max_body_bytes: usize,
    /// The rules that decide which requests may come in.
    pub doors: Doors,
    /// The memory that all request bodies together may take.
    pub room: Arc<Room>,
    /// True if endpoints may have link-local addresses.
    pub allow_link_local_endpoints: bool,
    /// The id of this Leaseway, different after every start.
    pub instance: HeaderValue,
    /// When refused clients are told to come again.
    pub retry_after: RetryAfter,
    /// True once Leaseway has begun to stop.
    pub draining: Arc<AtomicBool>,
}

/// Asks an actor and waits for its answer.
///
/// # Errors
/// If the actor gives no answer within [`ANSWER_TIMEOUT`].
async fn ask<A, M>(actor: &Addr<A>, message: M) -> Result<M::Result, ApiError>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match timeout(ANSWER_TIMEOUT, actor.send(message)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(ApiError::NotReady("a part of Leaseway gives no answer".to_owned())),
    }
}
