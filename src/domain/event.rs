//! What viewers are told.

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
    EndpointRegistered {
        endpoint_id: EndpointId,
        name: String,
        endpoint: Box<EndpointView>,
    },
    EndpointRemoved {
        endpoint_id: EndpointId,
    },
    EndpointStatusChanged {
        endpoint_id: EndpointId,
        old_status: EndpointStatus,
        new_status: EndpointStatus,
    },
    /// Its definition, its status, its models or its kind.
    EndpointChanged {
        endpoint_id: EndpointId,
        endpoint: Box<EndpointView>,
    },
    HealthChanged(HealthChanged),
    /// Requests are kept away from an endpoint after failures, or no longer, or it is tried with one.
    BreakerChanged {
        endpoint_id: EndpointId,
        breaker: BreakerView,
    },
    QueueDepth(QueueDepth),
    TpsUpdated(TpsUpdated),
    RequestsCounted(RequestsCounted),
    MinuteAdvanced(MinuteAdvanced),
}

/// What a probe, or a request, has found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthChanged {
    pub endpoint_id: EndpointId,
    /// Of the last good probe; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When it last answered well.
    pub last_seen: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
}

/// A reading of the line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueueDepth {
    /// Requests that wait for a lease.
    pub waiting: usize,
    /// Leases held.
    pub active: usize,
    /// Mean time from arrival to lease, over the leases granted within the last hour, in milliseconds.
    pub avg_wait_ms: f64,
    /// Mean time of the requests served within the last hour, in milliseconds; `None` without any.
    pub average_response_ms: Option<f64>,
    /// Slots taken of each endpoint; those with none are left out.
    pub in_flight: BTreeMap<EndpointId, u32>,
}

/// The counters of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestsCounted {
    pub endpoint_id: EndpointId,
    /// Leases; those that were abandoned are neither of the others.
    pub total_requests: i64,
    pub successful_requests: i64,
    pub failed_requests: i64,
}

/// The current minute, new or with more in it, and the totals with it. Requests count by their final answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MinuteAdvanced {
    /// Its beginning.
    pub minute: DateTime<Utc>,
    pub success: u64,
    pub error: u64,
    pub total_requests: i64,
    pub successful_requests: i64,
    pub failed_requests: i64,
    pub total_output_tokens: i64,
    /// For which there was no room since the start.
    pub history_rows_dropped: u64,
}

/// A new mean speed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TpsUpdated {
    pub endpoint_id: EndpointId,
    pub model_id: ModelId,
    pub api_kind: ApiKind,
    /// The new mean, tokens per second.
    pub tps: f64,
    /// Of the request that moved it.
    pub output_tokens: u64,
    /// Of the request that moved it.
    pub duration_ms: u64,
    /// The endpoint over all its models.
    pub endpoint_tps: EndpointTps,
}

/// The speed of an endpoint over all its models and APIs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointTps {
    pub endpoint_id: EndpointId,
    /// Models that were measured.
    pub model_count: usize,
    /// Tokens per second: the mean of the means, weighted by requests; `None` while nothing was measured.
    pub aggregate_tps: Option<f64>,
    pub total_output_tokens: u64,
    pub total_requests: u64,
}

/// What an event replaces when a newer one of the same key comes before it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventKey {
    QueueDepth,
    Endpoint(EndpointId),
    Tps(EndpointId, ModelId, ApiKind),
    Health(EndpointId),
    Breaker(EndpointId),
    Requests(EndpointId),
    Minute(DateTime<Utc>),
}

impl Event {
    pub fn registered(endpoint: EndpointView) -> Self {
        let (endpoint_id, name) = (endpoint.id, endpoint.name.clone());
        Event::EndpointRegistered { endpoint_id, name, endpoint: Box::new(endpoint) }
    }

    pub fn changed(endpoint: EndpointView) -> Self {
        Event::EndpointChanged { endpoint_id: endpoint.id, endpoint: Box::new(endpoint) }
    }

    /// Returns the key under which only the newest event counts; `None` if each counts.
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
