//! Sums of requests and tokens by model and by day, read from the database.

use actix_web::{HttpResponse, web};
use chrono::{Days, NaiveDate};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::endpoints::endpoint_id;
use super::error::ApiError;
use super::keys::key_id;
use super::{ANSWER_TIMEOUT, HttpReply, Services, ask};
use crate::actors::history_recorder::Flush;
use crate::actors::keyring::ReadKey;
use crate::actors::persistence::{Question, ReadDays, ReadKeyUse, ReadModelSums};
use crate::actors::registry::ReadEndpoint;
use crate::clock;
use crate::domain::history::DailySums;
use crate::domain::ids::{EndpointId, ModelId};

/// The longest period that can be asked for, in days.
const DAYS_MAX: u64 = 365;

/// The period that a request for sums by day asks for.
#[derive(Deserialize)]
pub struct Period {
    days: Option<String>,
}

impl Period {
    /// Returns the first of the days that are asked for; today is the last. `default` is the number of days if the request
    /// does not say.
    fn first(&self, default: u64) -> Result<NaiveDate, ApiError> {
        let read = |text: &String| {
            let days = text.parse().ok().filter(|days| (1..=DAYS_MAX).contains(days));
            days.ok_or_else(|| ApiError::InvalidRequest {
                message: format!("`days` is \"{text}\"; allowed is a whole number from 1 to {DAYS_MAX}"),
                param: Some("days".to_owned()),
            })
        };
        let days = self.days.as_ref().map(read).transpose()?.unwrap_or(default);
        let today = clock::local_day(clock::wall());
        Ok(today.checked_sub_days(Days::new(days - 1)).unwrap_or(today))
    }
}

/// Returns the sums of one endpoint by model, over all days.
pub async fn of_endpoint_by_model(services: web::Data<Services>, id: web::Path<String>) -> HttpReply {
    let id = known(&services, &id).await?;
    by_model(&services, Some(id)).await
}

/// Returns the sums of all endpoints by model, over all days, including endpoints that have been removed.
pub async fn of_all_by_model(services: web::Data<Services>) -> HttpReply {
    by_model(&services, None).await
}

/// Returns the sums of one endpoint by day, oldest first.
pub async fn of_endpoint_by_day(
    services: web::Data<Services>,
    id: web::Path<String>,
    period: web::Query<Period>,
) -> HttpReply {
    let (endpoint, first) = (known(&services, &id).await?, period.first(7)?);
    let sums = read(&services, ReadDays { endpoint, first }).await?;
    let shown = sums.iter().map(|(date, sums)| {
        let mut day = show(sums);
        day["date"] = json!(date.to_string());
        day["tps"] = json!(tps(sums));
        day
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

/// Returns the use of one key by day and model, oldest first.
pub async fn of_key(services: web::Data<Services>, id: web::Path<String>, period: web::Query<Period>) -> HttpReply {
    let key = ask(&services.keyring, ReadKey(key_id(&id)?)).await??.id;
    let used = read(&services, ReadKeyUse { key, first: period.first(30)? }).await?;
    let shown = used.iter().map(|(day, model, used)| {
        json!({
            "day": day.to_string(),
            "model": model,
            "requests": used.requests.total + used.refused,
            "succeeded": used.requests.successful,
            "failed": used.requests.failed,
            "refused": used.refused,
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
        })
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

async fn known(services: &Services, id: &str) -> Result<EndpointId, ApiError> {
    Ok(ask(&services.registry, ReadEndpoint(endpoint_id(id)?)).await??.id)
}

async fn by_model(services: &Services, endpoint: Option<EndpointId>) -> HttpReply {
    let sums = read(services, ReadModelSums(endpoint)).await?;
    let shown = sums.iter().map(|(model, sums): &(ModelId, DailySums)| {
        let mut shown = show(sums);
        shown["model_id"] = json!(model);
        shown
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

/// Asks the database, after what has been counted is written, and waits at most [`ANSWER_TIMEOUT`] for the answer. If the
/// database cannot be written but be read, the answer lacks what is not written yet.
async fn read<Q: Question>(services: &Services, question: Q) -> Result<Q::Answer, ApiError> {
    let _may_fail = ask(&services.history, Flush).await?;
    match timeout(ANSWER_TIMEOUT, services.store.ask(question)).await {
        Ok(answer) => answer.map_err(ApiError::Database),
        Err(_) => Err(ApiError::NotReady("the database gives no answer".to_owned())),
    }
}

fn show(sums: &DailySums) -> Value {
    json!({
        "total_requests": sums.leases.total,
        "successful_requests": sums.leases.successful,
        "failed_requests": sums.leases.failed,
        "total_output_tokens": sums.output_tokens,
        "total_duration_ms": sums.duration_ms,
    })
}

/// Returns tokens ÷ seconds; `None` if there are no tokens or no time was measured.
fn tps(sums: &DailySums) -> Option<f64> {
    let is_measured = sums.output_tokens > 0 && sums.duration_ms > 0;
    is_measured.then(|| sums.output_tokens as f64 * 1000.0 / sums.duration_ms as f64)
}
