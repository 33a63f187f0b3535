//! The list of models, read from memory.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::error::ApiError;
use super::{HttpReply, Services};
use crate::domain::ids::ModelId;

/// Returns the models of the endpoints that are online.
pub async fn list(services: web::Data<Services>) -> HttpResponse {
    let catalog = services.catalog.load();
    let data: Vec<Value> = catalog.iter().map(|(model, created)| show(model, *created)).collect();
    HttpResponse::Ok().json(json!({ "object": "list", "data": data }))
}

/// Returns one model, if an online endpoint has it.
pub async fn read(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let catalog = services.catalog.load();
    match catalog.get_key_value(id.as_str()) {
        Some((model, created)) => Ok(HttpResponse::Ok().json(show(model, *created))),
        None => Err(ApiError::UnknownModel(id.into_inner())),
    }
}

fn show(model: &ModelId, created: i64) -> Value {
    json!({ "id": model, "object": "model", "created": created, "owned_by": "leaseway" })
}
