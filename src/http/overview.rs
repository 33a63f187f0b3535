//! The overview: everything that a viewer sees first.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Services, ask, endpoints};
use crate::actors::history_recorder::{ReadRecent, Recent};
use crate::actors::load_manager::{Load, ReadLoad};
use crate::actors::tps_tracker::ReadEndpointSpeeds;
use crate::clock;
use crate::domain::endpoint::{EndpointStatus, EndpointView};
use crate::domain::event::EndpointTps;
use crate::domain::timeline::Minute;

/// Everything that a viewer sees first. Its fields are the JSON of `/api/dashboard/overview`.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// Every endpoint, in the order of registration.
    pub endpoints: Vec<EndpointView>,
    /// The totals of endpoints and requests.
    pub stats: Value,
    /// The requests of the last 60 minutes by minute, oldest first.
    pub history: Vec<Value>,
    /// The speed of each endpoint over all its models, in the order of `endpoints`.
    pub endpoint_tps: Vec<EndpointTps>,
    /// When this overview was read.
    pub generated_at: DateTime<Utc>,
}

impl Overview {
    /// Asks all actors for their part.
    ///
    /// # Errors
    /// If an actor gives no answer.
    pub async fn read(services: &Services) -> Result<Self, ApiError> {
        let endpoints = endpoints::views(services).await?;
        let load = ask(&services.load_manager, ReadLoad).await?;
        let recent = ask(&services.history, ReadRecent).await?;
        let mut speeds = ask(&services.tps, ReadEndpointSpeeds).await?;
        Ok(Self {
            stats: stats(&endpoints, &load, &recent),
            history: recent.minutes.iter().map(minute).collect(),
            endpoint_tps: endpoints.iter().filter_map(|endpoint| speeds.remove(&endpoint.id)).collect(),
            endpoints,
            generated_at: clock::wall(),
        })
    }
}

fn stats(endpoints: &[EndpointView], load: &Load, recent: &Recent) -> Value {
    let count = |status| endpoints.iter().filter(|endpoint| endpoint.status == status).count();
    let requests = recent.totals.requests;
    json!({
        "total_endpoints": endpoints.len(),
        "online_endpoints": count(EndpointStatus::Online),
        "pending_endpoints": count(EndpointStatus::Pending),
        "loading_endpoints": count(EndpointStatus::Loading),
        "draining_endpoints": count(EndpointStatus::Draining),
        "offline_endpoints": count(EndpointStatus::Offline),
        "error_endpoints": count(EndpointStatus::Error),
        "total_requests": requests.total,
        "successful_requests": requests.successful,
        "failed_requests": requests.failed,
        "total_active_requests": load.active,
        "queued_requests": load.waiting,
        "average_wait_time_ms": load.last_hour.avg_wait_ms(),
        "average_response_time_ms": average_response_ms(endpoints, load),
        "total_output_tokens": recent.totals.output_tokens,
        "history_rows_dropped": recent.rows_dropped,
    })
}

/// Returns the mean time of the requests served within the last hour, in milliseconds. Without such requests it is the mean
/// latency of the online endpoints; `None` if that is not known either.
fn average_response_ms(endpoints: &[EndpointView], load: &Load) -> Option<f64> {
    let by_probes = || average_latency_ms(endpoints);
    load.last_hour.average_response_ms().or_else(by_probes)
}

fn average_latency_ms(endpoints: &[EndpointView]) -> Option<f64> {
    let online = endpoints.iter().filter(|endpoint| endpoint.status == EndpointStatus::Online);
    let latencies: Vec<f64> = online.filter_map(|endpoint| endpoint.latency_ms).collect();
    (!latencies.is_empty()).then(|| latencies.iter().sum::<f64>() / latencies.len() as f64)
}

fn minute(entry: &Minute) -> Value {
    let start = DateTime::from_timestamp(entry.minute * 60, 0).unwrap_or_default();
    let minute = start.to_rfc3339_opts(SecondsFormat::Secs, true);
    json!({ "minute": minute, "success": entry.success, "error": entry.error })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::dispatch::admission::Backpressure;
    use crate::domain::endpoint::EndpointSource;
    use crate::domain::ids::EndpointId;
    use crate::domain::last_hour::Sums;

    fn endpoint(status: EndpointStatus, latency_ms: Option<f64>) -> EndpointView {
        EndpointView {
            id: EndpointId(Uuid::nil()),
            name: "a".to_owned(),
            base_url: "http://a".to_owned(),
            kind: None,
            status,
            source: EndpointSource::Api,
            max_concurrency: 1,
            capability_score: None,
            in_flight: Some(0),
            breaker: None,
            models: Vec::new(),
            latency_ms,
            last_seen: None,
            last_error: None,
            total_requests: 0,
            successful_requests: 0,
            failed_requests: 0,
            registered_at: DateTime::default(),
        }
    }

    #[test]
    fn the_average_response_is_that_of_requests_else_of_probes() {
        let load = |served| Load {
            waiting: 0,
            active: 0,
            max_waiting: 0,
            backpressure: Backpressure::Normal,
            last_hour: Sums { served, service_total: std::time::Duration::from_secs(3), ..Sums::default() },
        };
        let endpoints = [
            endpoint(EndpointStatus::Online, Some(100.0)),
            endpoint(EndpointStatus::Online, Some(200.0)),
            endpoint(EndpointStatus::Online, None),
            endpoint(EndpointStatus::Offline, Some(900.0)),
        ];
        assert_eq!(average_response_ms(&endpoints, &load(2)), Some(1500.0));
        assert_eq!(average_response_ms(&endpoints, &load(0)), Some(150.0));
        assert_eq!(average_response_ms(&endpoints[3..], &load(0)), None);
    }
}
