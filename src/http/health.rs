//! Is it alive, and is it ready.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::time::timeout;

use super::error::ApiError;
use super::{Services, ask};
use crate::actors::load_manager::ReadOccupancy;
use crate::actors::persistence::PingStore;
use crate::actors::registry::ListEndpoints;
use crate::store::StoreError;
use crate::upstream::via::INSTANCE;

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// 200 while the process lives. Says in a header that this is a Leaseway, and which one.
pub async fn health(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().insert_header((INSTANCE, services.instance.clone())).json(json!({ "status": "ok" }))
}

/// 200 once actors and database answer and as long as requests are taken.
pub async fn ready(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    if services.draining.load(Ordering::Relaxed) {
        return Err(ApiError::NotReady("Leaseway is stopping"));
    }
    ask(&services.load_manager, ReadOccupancy).await?;
    ask(&services.registry, ListEndpoints).await?;
    // It may be waiting for somebody else who has locked the database.
    let answered = timeout(DATABASE_TIMEOUT, services.store.ask(PingStore)).await;
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(StoreError::Away(_))) => return Err(ApiError::NotReady("the database file is gone")),
        Ok(_) | Err(_) => return Err(ApiError::NotReady("the database gives no answer")),
    }
    Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
}
