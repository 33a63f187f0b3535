//! The part of an endpoint that the database keeps over a restart of Leaseway.

use chrono::{DateTime, Utc};

use super::endpoint::{EndpointDefinition, EndpointKind, EndpointSource};
use super::history::Counters;
use super::ids::EndpointId;

/// An endpoint as the database keeps it.
#[derive(Clone, Debug)]
pub struct StoredEndpoint {
    /// The endpoint's id, the key in the database.
    pub id: EndpointId,
    /// What the operator says about the endpoint.
    pub definition: EndpointDefinition,
    /// Who registered the endpoint.
    pub source: EndpointSource,
    /// When the endpoint was registered.
    pub registered_at: DateTime<Utc>,
    /// What probes have found out.
    pub observation: Observation,
    /// The endpoint's leases so far.
    pub counters: Counters,
}

impl StoredEndpoint {
    /// Returns a new endpoint that was never probed and never had a lease.
    pub fn new(
        id: EndpointId,
        definition: EndpointDefinition,
        source: EndpointSource,
        registered_at: DateTime<Utc>,
    ) -> Self {
        let (observation, counters) = (Observation::default(), Counters::default());
        Self { id, definition, source, registered_at, observation, counters }
    }
}

/// What probes have found out about an endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The kind that probes found; `None` while it is not known.
    pub kind: Option<EndpointKind>,
    /// All the models that the server lists, allowed or not.
    pub models: Vec<String>,
    /// The latency of the last good probe, in milliseconds; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When the server last answered a probe well; `None` for never.
    pub last_seen: Option<DateTime<Utc>>,
}
