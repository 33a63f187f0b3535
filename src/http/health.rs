//! Whether the process lives, and whether it is ready to serve.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::time::timeout;

use super::error::ApiError;
use super::{HttpReply, Services, ask};
use crate::actors::load_manager::ReadOccupancy;
use crate::actors::persistence::PingStore;
use crate::actors::registry::ListEndpoints;
use crate::upstream::via::INSTANCE;

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers 200 while the process lives. A header of the answer names this Leaseway, so that it recognizes itself.
pub async fn health(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().insert_header((INSTANCE, services.instance.clone())).json(json!({ "status": "ok" }))
}

/// Answers 200 while the actors and the database answer and Leaseway takes requests.
pub async fn ready(services: web::Data<Services>) -> HttpReply {
    if services.draining.load(Ordering::Relaxed) {
        return Err(ApiError::NotReady("Leaseway is stopping".to_owned()));
    }
    ask(&services.load_manager, ReadOccupancy).await?;
    ask(&services.registry, ListEndpoints).await?;
    // The database may be locked by another process for longer than a readiness check may take.
    let answered = timeout(DATABASE_TIMEOUT, services.store.ask(PingStore)).await;
    match answered {
        Ok(Ok(())) => Ok(HttpResponse::Ok().json(json!({ "status": "ready" }))),
        Ok(Err(error)) => Err(ApiError::NotReady(error.to_string())),
        Err(_) => Err(ApiError::NotReady("the database gives no answer".to_owned())),
    }
}
