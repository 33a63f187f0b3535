//! What outlives the process of an endpoint.

use chrono::{DateTime, Utc};

use super::endpoint::{EndpointDefinition, EndpointKind, EndpointSource};
use super::history::Counters;
use super::ids::EndpointId;

/// An endpoint as the database keeps it.
#[derive(Clone, Debug)]
pub struct StoredEndpoint {
    /// Its key in the database.
    pub id: EndpointId,
    /// What its operator says about it.
    pub definition: EndpointDefinition,
    /// Who made it.
    pub source: EndpointSource,
    /// When it was made.
    pub registered_at: DateTime<Utc>,
    /// What probes have found out.
    pub observation: Observation,
    /// Its leases so far.
    pub counters: Counters,
}

impl StoredEndpoint {
    /// Returns a new endpoint, of which nothing is known but its definition.
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
    /// The kind that was detected; `None` while not known.
    pub kind: Option<EndpointKind>,
    /// All the models that the server lists, allowed or not.
    pub models: Vec<String>,
    /// Milliseconds; `None` while never measured.
    pub latency_ms: Option<f64>,
    /// When the server last answered a probe well; `None` for never.
    pub last_seen: Option<DateTime<Utc>>,
}
