//! The HTTP face: every route, and what handlers ask.

mod assets;
mod body;
mod client;
mod dashboard;
mod endpoints;
mod error;
mod health;
mod inference;
pub mod middleware;
mod models;
mod overview;
mod queue;
mod queue_updates;
mod reports;
mod serving;
mod session;
mod statistics;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use actix_web::error::QueryPayloadError;
use actix_web::http::header::HeaderName;
use actix_web::web::{self, QueryConfig, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, Resource, Route};
use tokio::time::timeout;

use self::error::ApiError;
pub use self::error::RetryAfter;
use crate::actors::event_hub::EventHub;
use crate::actors::history_recorder::HistoryRecorder;
use crate::actors::load_manager::{LeaseDesk, LoadManager};
use crate::actors::persistence::Persistence;
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
    pub persistence: Addr<Persistence>,
    pub events: Addr<EventHub>,
    pub catalog: Arc<ModelCatalog>,
    /// The header that names the client.
    pub client_header: Option<HeaderName>,
    pub max_body_bytes: usize,
    pub retry_after: RetryAfter,
    pub draining: Arc<AtomicBool>,
}

/// Every route there is.
pub fn routes(config: &mut ServiceConfig) {
    let bad_query = |error: QueryPayloadError, _: &HttpRequest| ApiError::invalid(error.to_string()).into();
    config
        .app_data(QueryConfig::default().error_handler(bad_query))
        .service(at("/v1/chat/completions", [web::post().to(inference::chat_completions)]))
        .service(at("/v1/completions", [web::post().to(inference::completions)]))
        .service(at("/v1/embeddings", [web::post().to(inference::embeddings)]))
        .service(at("/v1/responses", [web::post().to(inference::responses)]))
        .service(at("/v1/models", [web::get().to(models::list)]))
        .service(at("/v1/models/{id:.+}", [web::get().to(models::read)]))
        .service(at("/api/endpoints", [web::get().to(endpoints::list), web::post().to(endpoints::register)]))
        .service(at(
            "/api/endpoints/{id}",
            [web::get().to(endpoints::read), web::put().to(endpoints::update), web::delete().to(endpoints::remove)],
        ))
        .service(at("/api/endpoints/{id}/sync", [web::post().to(endpoints::sync)]))
        .service(at("/api/endpoints/{id}/drain", [web::post().to(endpoints::drain)]))
        .service(at("/api/endpoints/{id}/resume", [web::post().to(endpoints::resume)]))
        .service(at("/api/endpoints/{id}/model-tps", [web::get().to(endpoints::model_tps)]))
        .service(at("/api/endpoints/{id}/model-stats", [web::get().to(statistics::of_endpoint_by_model)]))
        .service(at("/api/endpoints/{id}/daily-stats", [web::get().to(statistics::of_endpoint_by_day)]))
        .service(at("/api/endpoints/{id}/metrics", load_reports()))
        .service(at("/api/nodes/{id}/metrics", load_reports()))
        .service(at("/api/agents/{id}/metrics", load_reports()))
        .service(at("/api/load-balancer/stats", [web::get().to(queue::selections)]))
        .service(at("/api/queue/stats", [web::get().to(queue::stats)]))
        .service(at("/api/queue/waiting", [web::get().to(queue::waiting)]))
        .service(at("/api/load-status", [web::get().to(queue::load_status)]))
        .service(at("/api/dashboard/overview", [web::get().to(dashboard::overview)]))
        .service(at("/api/dashboard/stats", [web::get().to(dashboard::stats)]))
        .service(at("/api/dashboard/endpoints", [web::get().to(dashboard::endpoints)]))
        .service(at("/api/dashboard/model-stats", [web::get().to(statistics::of_all_by_model)]))
        .service(at("/api/dashboard/request-history", [web::get().to(dashboard::request_history)]))
        .service(at("/", [web::get().to(assets::to_dashboard)]))
        .service(at("/dashboard", [web::get().to(assets::page), web::head().to(assets::page)]))
        .service(at("/static/{path:.+}", [web::get().to(assets::file)]))
        .service(at("/ws/dashboard", [web::get().to(dashboard::events)]))
        .service(at("/health", [web::get().to(health::health), web::head().to(health::health)]))
        .service(at("/ready", [web::get().to(health::ready), web::head().to(health::ready)]))
        .default_service(web::to(unknown_path));
}

/// Load reports are taken under every name that agents know an endpoint by.
fn load_reports() -> [Route; 2] {
    [web::get().to(reports::list), web::post().to(reports::report)]
}

fn at<const N: usize>(path: &str, routes: [Route; N]) -> Resource {
    let resource = web::resource(path).default_service(web::to(method_not_allowed));
    routes.into_iter().fold(resource, Resource::route)
}

async fn unknown_path(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::UnknownPath(request.path().to_owned()))
}

async fn method_not_allowed(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::MethodNotAllowed { method: request.method().to_string(), path: request.path().to_owned() })
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
