//! Is it alive, and is it ready.

use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::error::ApiError;
use super::{Services, ask};
use crate::actors::load_manager::ReadInFlight;
use crate::actors::persistence::PingStore;
use crate::actors::registry::ListEndpoints;

/// 200 while the process lives.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// 200 once actors and database answer and as long as requests are taken.
pub async fn ready(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    if services.draining.load(Ordering::Relaxed) {
        return Err(ApiError::NotReady("Leaseway is stopping"));
    }
    ask(&services.load_manager, ReadInFlight).await?;
    ask(&services.registry, ListEndpoints).await?;
    ask(&services.persistence, PingStore).await?.map_err(|_| ApiError::NotReady("the database gives no answer"))?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
}
