//! The management of endpoints: list, register, change, remove, sync and drain endpoints, and read their speeds.

use std::ops::RangeInclusive;
use std::rc::Rc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value, json};
use uuid::Uuid;

use super::error::ApiError;
use super::{HttpReply, Services, ask, body};
use crate::actors::load_manager::ReadOccupancy;
use crate::actors::registry::{
    CheckFree, EndpointChange, ListEndpoints, ReadEndpoint, RegisterEndpoint, RemoveEndpoint, SetDraining,
    SyncEndpoint, UpdateEndpoint,
};
use crate::actors::tps_tracker::ReadSpeeds;
use crate::domain::dispatch::BreakerView;
use crate::domain::endpoint::{
    CAPABILITY_SCORE, EndpointDefinition, EndpointKind, EndpointView, MAX_CONCURRENCY, check_api_key, check_base_url,
    check_models, check_name, is_link_local, root_url,
};
use crate::domain::ids::EndpointId;
use crate::upstream::client::Upstreams;
use crate::upstream::via;

/// The body that registers or changes an endpoint. A field that is left out takes its default in a new endpoint, and stays
/// as it is in a change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointBody {
    name: Option<String>,
    base_url: Option<String>,
    #[serde(default, deserialize_with = "given")]
    kind: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    max_concurrency: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    capability_score: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    api_key: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    models: Option<Option<Vec<String>>>,
}

/// Distinguishes a field that is `null` (`Some(None)`) from a field that is left out (`None`).
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl EndpointBody {
    fn check(self) -> Result<EndpointChange, ApiError> {
        if let Some(name) = &self.name {
            check_name(name).map_err(|allowed| wrong("name", name, &allowed))?;
        }
        if let Some(Some(key)) = &self.api_key {
            check_api_key(key).map_err(|allowed| ApiError::InvalidRequest {
                message: format!("`api_key` is not allowed; allowed is {allowed}"),
                param: Some("api_key".to_owned()),
            })?;
        }
        if let Some(Some(models)) = &self.models {
            check_models(models).map_err(|allowed| wrong("models", &format!("{} names", models.len()), &allowed))?;
        }
        let base_url =
            self.base_url.map(|text| check_base_url(&text).map_err(|allowed| wrong("base_url", &text, &allowed)));
        let kind = match self.kind.as_ref().map(Option::as_deref) {
            None => None,
            Some(None | Some("auto")) => Some(None),
            Some(Some(name)) => Some(Some(EndpointKind::from_name(name).ok_or_else(|| {
                let names = EndpointKind::ALL.map(EndpointKind::as_str);
                wrong("kind", name, &format!("auto, {}", names.join(", ")))
            })?)),
        };
        Ok(EndpointChange {
            name: self.name,
            base_url: base_url.transpose()?,
            kind,
            max_concurrency: within("max_concurrency", self.max_concurrency, MAX_CONCURRENCY)?,
            capability_score: within("capability_score", self.capability_score, CAPABILITY_SCORE)?,
            api_key: self.api_key,
            allowed_models: self.models.map(Option::unwrap_or_default),
        })
    }
}

/// Reads a whole number and checks that it is within `range`.
fn within(
    field: &str,
    given: Option<Option<Number>>,
    range: RangeInclusive<u32>,
) -> Result<Option<Option<u32>>, ApiError> {
    let read = |number: Number| {
        let whole = number.as_u64().and_then(|whole| u32::try_from(whole).ok()).filter(|whole| range.contains(whole));
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        whole.ok_or_else(|| wrong(field, &number.to_string(), &allowed()))
    };
    given.map(|given| given.map(read).transpose()).transpose()
}

pub fn wrong(field: &str, value: &str, allowed: &str) -> ApiError {
    let message = format!("`{field}` is \"{value}\"; allowed is {allowed}");
    ApiError::InvalidRequest { message, param: Some(field.to_owned()) }
}

/// Returns the error of a body that lacks a required field.
pub fn missing(field: &str) -> ApiError {
    ApiError::InvalidRequest { message: format!("`{field}` is missing"), param: Some(field.to_owned()) }
}

/// Reads an endpoint's id from a path.
///
/// # Errors
/// If the text is not a UUID, so that no endpoint can have it as id.
pub fn endpoint_id(text: &str) -> Result<EndpointId, ApiError> {
    Uuid::parse_str(text).map(EndpointId).map_err(|_| ApiError::UnknownEndpoint(text.to_owned()))
}

/// Answers with every endpoint, in the order of registration.
pub async fn list(services: web::Data<Services>) -> HttpReply {
    Ok(HttpResponse::Ok().json(views(&services).await?))
}

/// Returns every endpoint as it is shown, in the order of registration.
///
/// # Errors
/// If an actor gives no answer.
pub async fn views(services: &Services) -> Result<Vec<EndpointView>, ApiError> {
    let mut views = ask(&services.registry, ListEndpoints).await?;
    fill_occupancy(services, &mut views).await?;
    Ok(views)
}

/// Registers an endpoint; answers once the endpoint is saved.
pub async fn register(services: web::Data<Services>, request: HttpRequest, payload: web::Payload) -> HttpReply {
    let given = body::read_json::<EndpointBody>(&request, payload).await?.check()?;
    let definition = EndpointDefinition {
        name: given.name.ok_or_else(|| missing("name"))?,
        base_url: given.base_url.ok_or_else(|| missing("base_url"))?,
        kind: given.kind.flatten(),
        max_concurrency: given.max_concurrency.flatten(),
        capability_score: given.capability_score.flatten(),
        api_key: given.api_key.flatten(),
        allowed_models: given.allowed_models.unwrap_or_default(),
    };
    check_address(&services, &request, None, Some(&definition.name), &definition.base_url).await?;
    let view = ask(&services.registry, RegisterEndpoint(definition)).await??;
    // No slot of a new endpoint can have been granted yet.
    Ok(HttpResponse::Created().json(EndpointView { in_flight: Some(0), breaker: Some(BreakerView::CLOSED), ..view }))
}

/// Refuses an address that cannot be that of an inference server: a link-local one, or that of this Leaseway. `id` is the
/// endpoint to change, `None` for a new one. The address is asked only if the registry would accept it and the new name.
async fn check_address(
    services: &Services,
    request: &HttpRequest,
    id: Option<EndpointId>,
    name: Option<&str>,
    base_url: &str,
) -> Result<(), ApiError> {
    if !services.allow_link_local_endpoints && is_link_local(base_url) {
        let allowed = "an address that is not link-local, unless server.allow_link_local_endpoints is set";
        return Err(wrong("base_url", base_url, allowed));
    }
    let (name, address) = (name.map(str::to_owned), base_url.to_owned());
    ask(&services.registry, CheckFree { id, name, base_url: address }).await??;
    let upstreams = request.app_data::<Rc<Upstreams>>().expect("set for every worker");
    if via::leads_to(&services.instance, &root_url(base_url), &upstreams.config).await {
        return Err(ApiError::EndpointIsLeaseway { base_url: base_url.to_owned() });
    }
    Ok(())
}

/// Returns one endpoint.
pub async fn read(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let view = ask(&services.registry, ReadEndpoint(endpoint_id(&id)?)).await??;
    show(&services, view).await
}

/// Changes an endpoint; answers once the change is saved.
pub async fn update(
    services: web::Data<Services>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpReply {
    let id = endpoint_id(&id)?;
    let change = body::read_json::<EndpointBody>(&request, payload).await?.check()?;
    if let Some(base_url) = &change.base_url {
        check_address(&services, &request, Some(id), change.name.as_deref(), base_url).await?;
    }
    let view = ask(&services.registry, UpdateEndpoint { id, change }).await??;
    show(&services, view).await
}

/// Removes an endpoint; answers once the endpoint is gone from the database.
pub async fn remove(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    ask(&services.registry, RemoveEndpoint(endpoint_id(&id)?)).await??;
    Ok(HttpResponse::NoContent().finish())
}

/// Probes an endpoint and reads its models; answers with what the probe found.
pub async fn sync(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let view = ask(&services.registry, SyncEndpoint(endpoint_id(&id)?)).await??;
    show(&services, view).await
}

/// Takes an endpoint out of service: it gets no new leases.
pub async fn drain(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    set_draining(&services, &id, true).await
}

/// Puts an endpoint back into service: it gets leases again.
pub async fn resume(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    set_draining(&services, &id, false).await
}

async fn set_draining(services: &Services, id: &str, draining: bool) -> HttpReply {
    let endpoint = endpoint_id(id)?;
    let view = ask(&services.registry, SetDraining { endpoint, draining }).await??;
    show(services, view).await
}

/// Returns the speeds of an endpoint by model and API.
pub async fn model_tps(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let view = ask(&services.registry, ReadEndpoint(endpoint_id(&id)?)).await??;
    let speeds = ask(&services.tps, ReadSpeeds(view.id)).await?;
    let shown = speeds.into_iter().map(|((model, api_kind), speed)| {
        json!({
            "model_id": model,
            "api_kind": api_kind,
            "tps": speed.tps(),
            "request_count": speed.request_count(),
            "total_output_tokens": speed.output_tokens(),
            "average_duration_ms": speed.average_duration_ms(),
            "tokens_estimated": speed.has_estimates(),
            "first_token_ms": speed.first_token_ms(),
            "decode_tps": speed.decode_tps(),
        })
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

async fn show(services: &Services, view: EndpointView) -> HttpReply {
    let mut views = [view];
    fill_occupancy(services, &mut views).await?;
    let [view] = views;
    Ok(HttpResponse::Ok().json(view))
}

async fn fill_occupancy(services: &Services, views: &mut [EndpointView]) -> Result<(), ApiError> {
    let occupancy = ask(&services.load_manager, ReadOccupancy).await?;
    for view in views {
        let known = occupancy.get(&view.id);
        view.in_flight = Some(known.map_or(0, |known| known.in_flight));
        view.breaker = Some(known.map_or(BreakerView::CLOSED, |known| known.breaker));
    }
    Ok(())
}
