//! The list of models, read from memory.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::error::ApiError;
use super::{HttpReply, Services, auth};
use crate::domain::ids::ModelId;

/// Returns the models of the endpoints that are online, as far as the request's key may use them.
pub async fn list(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let catalog = services.catalog.load();
    let models = catalog.iter().filter(|(model, _)| auth::may_use(&request, model));
    let data: Vec<Value> = models.map(|(model, created)| show(model, *created)).collect();
    HttpResponse::Ok().json(json!({ "object": "list", "data": data }))
}

/// Returns one model, if an online endpoint has it and the request's key may use it.
pub async fn read(services: web::Data<Services>, request: HttpRequest, id: web::Path<String>) -> HttpReply {
    let catalog = services.catalog.load();
    match catalog.get_key_value(id.as_str()).filter(|(model, _)| auth::may_use(&request, model)) {
        Some((model, created)) => Ok(HttpResponse::Ok().json(show(model, *created))),
        None => Err(ApiError::UnknownModel(id.into_inner())),
    }
}

fn show(model: &ModelId, created: i64) -> Value {
    json!({ "id": model, "object": "model", "created": created, "owned_by": "leaseway" })
}
