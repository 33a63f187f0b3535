//! The line, as operators see it.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::error::ApiError;
use super::{Services, ask};
use crate::actors::load_manager::ReadLoad;

pub async fn stats(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let load = ask(&services.load_manager, ReadLoad).await?;
    Ok(HttpResponse::Ok().json(json!({
        "waiting_count": load.waiting,
        "processing_count": load.active,
        "avg_wait_time_ms": load.last_hour.avg_wait_ms(),
        "avg_process_time_ms": load.last_hour.avg_service_ms(),
        "timeout_count": load.last_hour.timeouts,
        "rejected_count": load.last_hour.rejected,
    })))
}

pub async fn load_status(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let load = ask(&services.load_manager, ReadLoad).await?;
    Ok(HttpResponse::Ok().json(json!({
        "backpressure_state": load.backpressure,
        "queue_size": load.waiting,
        "max_queue_size": load.max_waiting,
        "load_ratio": load.waiting as f64 / load.max_waiting.max(1) as f64,
        "active_leases": load.active,
    })))
}
