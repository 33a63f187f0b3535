//! What viewers read: the timeline, and the live events.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::error::ApiError;
use super::session::Session;
use super::{Services, ask};
use crate::actors::history_recorder::ReadTimeline;

pub async fn request_history(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let minutes = ask(&services.history, ReadTimeline).await?;
    let shown = minutes.into_iter().map(|entry| {
        let start = DateTime::from_timestamp(entry.minute * 60, 0).unwrap_or_default();
        let minute = start.to_rfc3339_opts(SecondsFormat::Secs, true);
        json!({ "minute": minute, "success": entry.success, "error": entry.error })
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

pub async fn events(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    Session::open(services.events.clone(), &request, payload)
}
