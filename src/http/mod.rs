//! The HTTP face: the routes, their handlers, and what handlers ask.

mod assets;
mod body;
mod client;
mod client_stream;
mod dashboard;
pub mod doors;
mod endpoints;
mod error;
mod frames;
mod health;
mod inference;
pub mod middleware;
mod models;
mod overview;
mod places;
mod queue;
mod queue_updates;
mod reports;
pub mod room;
mod routes;
pub mod server;
mod serving;
mod session;
mod statistics;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use actix_web::http::header::{HeaderName, HeaderValue};
use tokio::time::timeout;

use self::doors::Doors;
use self::error::ApiError;
pub use self::error::RetryAfter;
use self::room::Room;
pub use self::routes::routes;
use crate::actors::event_hub::EventHub;
use crate::actors::history_recorder::HistoryRecorder;
use crate::actors::load_manager::{LeaseDesk, LoadManager};
use crate::actors::persistence::StoreDesk;
use crate::actors::registry::{ModelCatalog, Registry};
use crate::actors::tps_tracker::TpsTracker;

/// How long a question to an actor may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom handlers ask, and what they must know.
pub struct Services {
    pub desk: LeaseDesk,
    pub load_manager: Addr<LoadManager>,
    pub registry: Addr<Registry>,
    pub tps: Addr<TpsTracker>,
    pub history: Addr<HistoryRecorder>,
    pub store: StoreDesk,
    pub events: Addr<EventHub>,
    pub catalog: Arc<ModelCatalog>,
    /// The header that names the client.
    pub client_header: Option<HeaderName>,
    pub max_body_bytes: usize,
    pub doors: Doors,
    /// The memory that request bodies may take together.
    pub room: Arc<Room>,
    /// Endpoints may have link-local addresses.
    pub allow_link_local_endpoints: bool,
    /// The id of this Leaseway, different after every start.
    pub instance: HeaderValue,
    pub retry_after: RetryAfter,
    pub draining: Arc<AtomicBool>,
}

/// Asks an actor.
///
/// # Errors
/// If it gives no answer in time.
async fn ask<A, M>(actor: &Addr<A>, message: M) -> Result<M::Result, ApiError>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match timeout(ANSWER_TIMEOUT, actor.send(message)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(ApiError::NotReady("a part of Leaseway gives no answer")),
    }
}
