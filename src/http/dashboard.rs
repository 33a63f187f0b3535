//! What viewers read, and the live events.

use actix_web::{HttpRequest, HttpResponse, web};

use super::Services;
use super::error::ApiError;
use super::overview::Overview;
use super::session::Session;

/// Returns everything that the dashboard shows.
pub async fn overview(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?))
}

/// Returns the totals.
pub async fn stats(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.stats))
}

/// Returns the endpoints as the overview has them.
pub async fn endpoints(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.endpoints))
}

/// Returns the requests of the last 60 minutes, by minute.
pub async fn request_history(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.history))
}

/// Opens a viewer's session.
pub async fn events(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    Session::open(services, &request, payload)
}
