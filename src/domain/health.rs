//! How probes move an endpoint between its states.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::endpoint::{EndpointKind, EndpointStatus};

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeAnswer {
    pub latency: Duration,
    /// The models the server lists.
    pub models: Vec<String>,
    /// `None`: not asked for.
    pub kind: Option<EndpointKind>,
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// No answer.
    Unreachable(String),
    /// An answer that no inference server gives.
    Wrong(String),
}

/// The health of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub status: EndpointStatus,
    /// Of the last good probe, in milliseconds; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When it last answered well.
    pub last_seen: Option<DateTime<Utc>>,
    /// Why the last probe or request failed; `None` once a probe is good again.
    pub last_error: Option<String>,
    failures_in_a_row: u32,
}

impl Health {
    /// Returns the health of an endpoint that has not been probed yet in this process.
    pub fn pending(latency_ms: Option<f64>, last_seen: Option<DateTime<Utc>>) -> Self {
        Self { status: EndpointStatus::Pending, latency_ms, last_seen, last_error: None, failures_in_a_row: 0 }
    }

    /// Learns of a good probe.
    pub fn answered(&mut self, wall: DateTime<Utc>, latency: Duration) {
        self.status = EndpointStatus::Online;
        self.latency_ms = Some(latency.as_secs_f64() * 1000.0);
        self.last_seen = Some(wall);
        self.last_error = None;
        self.failures_in_a_row = 0;
    }

    /// Learns of a failed probe. An online endpoint stays online until `failures_to_offline` have failed in a row.
    pub fn failed(&mut self, failure: ProbeFailure, failures_to_offline: u32) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let (status, reason) = match failure {
            ProbeFailure::Unreachable(reason) => (EndpointStatus::Offline, reason),
            ProbeFailure::Wrong(reason) => (EndpointStatus::Error, reason),
        };
        self.last_error = Some(reason);
        if self.status != EndpointStatus::Online || self.failures_in_a_row >= failures_to_offline {
            self.status = status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time")
    }

    fn unreachable() -> ProbeFailure {
        ProbeFailure::Unreachable("refused".to_owned())
    }

    #[test]
    fn the_first_probe_decides_at_once() {
        let mut health = Health::pending(None, None);
        health.failed(unreachable(), 3);
        assert_eq!(health.status, EndpointStatus::Offline);
        let mut health = Health::pending(None, None);
        health.failed(ProbeFailure::Wrong("404".to_owned()), 3);
        assert_eq!(health.status, EndpointStatus::Error);
    }

    #[test]
    fn an_online_endpoint_goes_offline_after_failures_in_a_row_and_keeps_its_latency() {
        let mut health = Health::pending(None, None);
        health.answered(wall(), Duration::from_millis(120));
        health.failed(unreachable(), 2);
        assert_eq!(health.status, EndpointStatus::Online);
        health.answered(wall(), Duration::from_millis(120));
        health.failed(unreachable(), 2);
        assert_eq!(health.status, EndpointStatus::Online, "a good probe starts the count again");
        health.failed(unreachable(), 2);
        assert_eq!((health.status, health.latency_ms), (EndpointStatus::Offline, Some(120.0)));
        assert_eq!(health.last_error.as_deref(), Some("refused"));
        health.answered(wall(), Duration::from_millis(95));
        assert_eq!((health.status, health.latency_ms), (EndpointStatus::Online, Some(95.0)));
        assert_eq!(health.last_error, None);
    }
}
