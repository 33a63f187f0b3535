//! The routes of the dashboard: what viewers read, and the live events.

use actix_web::{HttpRequest, HttpResponse, web};

use super::overview::Overview;
use super::session::Session;
use super::{HttpReply, Services};

/// Returns everything that the dashboard shows.
pub async fn overview(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?))
}

/// Returns the totals of endpoints and requests.
pub async fn stats(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.stats))
}

/// Returns the endpoints in the form that the overview shows them.
pub async fn endpoints(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.endpoints))
}

/// Returns the requests of the last 60 minutes, by minute.
pub async fn request_history(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(Overview::read(&services).await?.history))
}

/// Opens a viewer's session, which sends the live events.
pub async fn events(services: web::Data<Services>, request: HttpRequest, payload: web::Payload) -> HttpReply {
    Session::open(services, &request, payload)
}
