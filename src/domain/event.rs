//! The events that viewers, such as the dashboard, receive over the WebSocket.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::dispatch::BreakerView;
use super::endpoint::{EndpointStatus, EndpointView};
use super::ids::{EndpointId, ModelId};
use super::request::ApiKind;

/// One event, as it goes over the wire: `{"type": …, "data": {…}}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// An endpoint was registered.
    EndpointRegistered {
        /// The endpoint's id.
        endpoint_id: EndpointId,
        /// The endpoint's name.
        name: String,
        /// The whole endpoint.
        endpoint: Box<EndpointView>,
    },
    /// An endpoint was removed.
    EndpointRemoved {
        /// The endpoint's id.
        endpoint_id: EndpointId,
    },
    /// The status of an endpoint has changed.
    EndpointStatusChanged {
        /// The endpoint's id.
        endpoint_id: EndpointId,
        /// The status before the change.
        old_status: EndpointStatus,
        /// The status after the change.
        new_status: EndpointStatus,
    },
    /// The definition, status, models or kind of an endpoint have changed.
    EndpointChanged {
        /// The endpoint's id.
        endpoint_id: EndpointId,
        /// The whole endpoint after the change.
        endpoint: Box<EndpointView>,
    },
    /// A probe or a request has changed the health of an endpoint.
    HealthChanged(HealthChanged),
    /// The breaker of an endpoint has opened, closed or let a trial request through.
    BreakerChanged {
        /// The endpoint's id.
        endpoint_id: EndpointId,
        /// The breaker after the change.
        breaker: BreakerView,
    },
    /// The line, the slots taken or the means of the last hour have changed.
    QueueDepth(QueueDepth),
    /// A request has moved the mean speed of a model on an endpoint.
    TpsUpdated(TpsUpdated),
    /// The counters of an endpoint have changed.
    RequestsCounted(RequestsCounted),
    /// The current minute or the totals have changed.
    MinuteAdvanced(MinuteAdvanced),
}

/// What probes and requests have found out about an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthChanged {
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// The latency of the last good probe, in milliseconds; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When the endpoint last answered a probe well; `None` for never.
    pub last_seen: Option<DateTime<Utc>>,
    /// Why the last probe or request failed; `None` if nothing is wrong.
    pub last_error: Option<String>,
}

/// The state of the line and of the slots at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueueDepth {
    /// Requests that wait for a lease.
    pub waiting: usize,
    /// Leases held.
    pub active: usize,
    /// Mean wait before the leases granted within the last hour, in milliseconds; 0 if none was granted.
    pub avg_wait_ms: f64,
    /// Mean duration of the leases that ended with success within the last hour, in milliseconds; `None` if there were
    /// none.
    pub average_response_ms: Option<f64>,
    /// Slots taken of each endpoint; endpoints without a taken slot are left out.
    pub in_flight: BTreeMap<EndpointId, u32>,
}

/// The counters of an endpoint since its registration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestsCounted {
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// Ended leases; abandoned ones count here only.
    pub total_requests: i64,
    /// Leases that ended with success.
    pub successful_requests: i64,
    /// Leases that ended with a failure.
    pub failed_requests: i64,
}

/// The current minute, which has begun or in which a request has ended, and the totals. Requests count by their final
/// answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MinuteAdvanced {
    /// The beginning of the minute.
    pub minute: DateTime<Utc>,
    /// Requests of this minute that succeeded.
    pub success: u64,
    /// Requests of this minute that failed or were refused.
    pub error: u64,
    /// All requests ever; abandoned ones count here only.
    pub total_requests: i64,
    /// All requests ever that succeeded.
    pub successful_requests: i64,
    /// All requests ever that failed or were refused.
    pub failed_requests: i64,
    /// All output tokens ever.
    pub total_output_tokens: i64,
    /// History rows dropped since the start, because the database could not be written for too long.
    pub history_rows_dropped: u64,
}

/// The new mean speed of one endpoint, model and API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TpsUpdated {
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// The model that was measured.
    pub model_id: ModelId,
    /// The API of the request that was measured.
    pub api_kind: ApiKind,
    /// The new mean, in tokens per second.
    pub tps: f64,
    /// Output tokens of the request that moved the mean.
    pub output_tokens: u64,
    /// Duration of the request that moved the mean, in milliseconds.
    pub duration_ms: u64,
    /// The speed of the endpoint over all its models.
    pub endpoint_tps: EndpointTps,
}

/// The speed of an endpoint over all its models and APIs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointTps {
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// The number of models that were measured.
    pub model_count: usize,
    /// Tokens per second: the mean of the means, weighted by requests; `None` while nothing was measured.
    pub aggregate_tps: Option<f64>,
    /// Output tokens of all measured requests.
    pub total_output_tokens: u64,
    /// The number of measured requests.
    pub total_requests: u64,
}

/// The key of an event. A newer event with the same key replaces an older one that was not sent yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventKey {
    /// [`Event::QueueDepth`].
    QueueDepth,
    /// [`Event::EndpointChanged`] of this endpoint.
    Endpoint(EndpointId),
    /// [`Event::TpsUpdated`] of this endpoint, model and API.
    Tps(EndpointId, ModelId, ApiKind),
    /// [`Event::HealthChanged`] of this endpoint.
    Health(EndpointId),
    /// [`Event::BreakerChanged`] of this endpoint.
    Breaker(EndpointId),
    /// [`Event::RequestsCounted`] of this endpoint.
    Requests(EndpointId),
    /// [`Event::MinuteAdvanced`] of this minute.
    Minute(DateTime<Utc>),
}

impl Event {
    /// Returns the event of an endpoint that was registered.
    pub fn registered(endpoint: EndpointView) -> Self {
        let (endpoint_id, name) = (endpoint.id, endpoint.name.clone());
        Event::EndpointRegistered { endpoint_id, name, endpoint: Box::new(endpoint) }
    }

    /// Returns the event of an endpoint that has changed.
    pub fn changed(endpoint: EndpointView) -> Self {
        Event::EndpointChanged { endpoint_id: endpoint.id, endpoint: Box::new(endpoint) }
    }

    /// Returns the key under which a newer event replaces this one; `None` if every such event must be sent.
    pub fn key(&self) -> Option<EventKey> {
        match self {
            Event::QueueDepth(_) => Some(EventKey::QueueDepth),
            Event::TpsUpdated(update) => {
                Some(EventKey::Tps(update.endpoint_id, update.model_id.clone(), update.api_kind))
            }
            Event::EndpointChanged { endpoint_id, .. } => Some(EventKey::Endpoint(*endpoint_id)),
            Event::BreakerChanged { endpoint_id, .. } => Some(EventKey::Breaker(*endpoint_id)),
            Event::HealthChanged(health) => Some(EventKey::Health(health.endpoint_id)),
            Event::RequestsCounted(counted) => Some(EventKey::Requests(counted.endpoint_id)),
            Event::MinuteAdvanced(advanced) => Some(EventKey::Minute(advanced.minute)),
            Event::EndpointRegistered { .. } | Event::EndpointRemoved { .. } | Event::EndpointStatusChanged { .. } => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_type_and_its_data() {
        let event = Event::QueueDepth(QueueDepth { waiting: 2, active: 1, avg_wait_ms: 1.5, ..QueueDepth::default() });
        let json = serde_json::to_string(&event).expect("JSON");
        assert_eq!(
            json,
            r#"{"type":"QueueDepth","data":{"waiting":2,"active":1,"avg_wait_ms":1.5,"average_response_ms":null,"in_flight":{}}}"#
        );
    }
}
