//! What operators see of the queue, the running requests and the selections.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{HttpReply, Services, ask};
use crate::actors::load_manager::{ReadLoad, ReadQueue, ReadSelections};
use crate::clock;
use crate::domain::dispatch::{ModelWait, RecentGrant, Running};

/// Returns how many requests wait and run now, and the averages of the last hour.
pub async fn stats(services: web::Data<Services>) -> HttpReply {
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

/// Returns how often each endpoint was chosen, and for which reasons.
pub async fn selections(services: web::Data<Services>) -> HttpReply {
    let view = ask(&services.load_manager, ReadSelections).await?;
    let total = view.selections.total;
    Ok(HttpResponse::Ok().json(json!({
        "mode": view.mode,
        "total_selections": total,
        "selections_by_endpoint": view.by_endpoint,
        "selections_by_reason": view.selections.by_reason,
        "avg_selection_time_us": view.time.as_secs_f64() * 1e6 / total.max(1) as f64,
    })))
}

/// Returns how full the queue is.
pub async fn load_status(services: web::Data<Services>) -> HttpReply {
    let load = ask(&services.load_manager, ReadLoad).await?;
    Ok(HttpResponse::Ok().json(json!({
        "backpressure_state": load.backpressure,
        "queue_size": load.waiting,
        "max_queue_size": load.max_waiting,
        "load_ratio": load.waiting as f64 / load.max_waiting.max(1) as f64,
        "active_leases": load.active,
    })))
}

/// Returns the waiting requests by model, the running requests, and the latest grants.
pub async fn waiting(services: web::Data<Services>) -> HttpReply {
    let queue = ask(&services.load_manager, ReadQueue).await?;
    let model = |wait: &ModelWait| {
        json!({
            "model": wait.model,
            "waiting": wait.waiting,
            "estimated_wait": wait.estimated_wait.map(|wait| wait.as_secs()),
        })
    };
    let running = |running: &Running| {
        json!({
            "endpoint": running.target.name,
            "model": running.model,
            "api_kind": running.api_kind,
            "elapsed_ms": milliseconds(running.elapsed),
        })
    };
    let grant = |grant: &RecentGrant| {
        json!({
            "time": clock::wall_at(grant.granted),
            "endpoint": grant.target.name,
            "model": grant.model,
            "reason": grant.reason,
            "wait_ms": milliseconds(grant.waited),
        })
    };
    Ok(HttpResponse::Ok().json(json!({
        "models": queue.by_model.iter().map(model).collect::<Value>(),
        "running": queue.running.iter().map(running).collect::<Value>(),
        "grants": queue.grants.iter().map(grant).collect::<Value>(),
    })))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
