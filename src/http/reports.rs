//! Load reports, which endpoints or agents beside them push.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::endpoints::{endpoint_id, missing};
use super::error::ApiError;
use super::{HttpReply, Services, ask, body};
use crate::actors::registry::{ListReports, ReportLoad};
use crate::domain::load::{LoadReport, OutOfRange};

/// Takes a load report of an endpoint.
pub async fn report(
    services: web::Data<Services>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpReply {
    let endpoint = endpoint_id(&id)?;
    let report = check(body::read_json::<LoadReport>(&request, payload).await?)?;
    ask(&services.registry, ReportLoad { endpoint, report }).await??;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the newest report, with `null` in every field while there is none, and the latest reports, oldest first.
pub async fn list(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let endpoint = endpoint_id(&id)?;
    let history = ask(&services.registry, ListReports(endpoint)).await??;
    let mut shown = match history.last() {
        Some(newest) => json!(newest),
        None => {
            let mut nothing = json!(LoadReport::default());
            nothing["source"] = Value::Null;
            nothing["received_at"] = Value::Null;
            nothing
        }
    };
    shown["endpoint_id"] = json!(endpoint);
    shown["history"] = json!(history);
    Ok(HttpResponse::Ok().json(shown))
}

fn check(report: LoadReport) -> Result<LoadReport, ApiError> {
    let required = [
        ("cpu_usage", report.cpu_usage.is_some()),
        ("memory_usage", report.memory_usage.is_some()),
        ("active_requests", report.active_requests.is_some()),
    ];
    if let Some((field, _)) = required.into_iter().find(|(_, is_given)| !is_given) {
        return Err(missing(field));
    }
    report.check().map_err(|OutOfRange { field, reason }| ApiError::InvalidRequest {
        message: format!("`{field}` {reason}"),
        param: Some(field.to_owned()),
    })?;
    Ok(report)
}
