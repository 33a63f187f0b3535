//! What viewers read, and the live events.

use actix_web::{HttpRequest, HttpResponse, web};

use super::Services;
use super::error::ApiError;
use super::overview::Overview;
use super::session::Session;

pub async fn overview(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?))
}

pub async fn stats(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.stats))
}

pub async fn endpoints(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.endpoints))
}

pub async fn request_history(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.history))
}

pub async fn events(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    Session::open(services, &request, payload)
}
