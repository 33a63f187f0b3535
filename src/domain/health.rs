//! The health of an endpoint: how probes and requests change its status.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::endpoint::{EndpointKind, EndpointStatus};
use super::request::{Failure, Outcome};
use super::time::Moment;

/// How old the list of models may become. Answers to requests replace probes only until then.
const MODELS_MAX_AGE: Duration = Duration::from_secs(300);

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeAnswer {
    /// The time from sending the probe to the end of its answer.
    pub latency: Duration,
    /// The models that the server lists; `None` if it lists none while it is loading.
    pub models: Option<Vec<String>>,
    /// The kind of the server; `None` if the list of models does not show it.
    pub kind: Option<EndpointKind>,
    /// The server says that it is still loading its model.
    pub is_loading: bool,
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// The endpoint gave no answer.
    Unreachable(String),
    /// The endpoint gave an answer that no inference server gives.
    Wrong(String),
    /// Leaseway could not send the probe, because it has no file descriptor left. This says nothing about the endpoint.
    NotSent(String),
}

/// The health of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The status that probes have found; never `Draining`, which is the operator's wish.
    pub status: EndpointStatus,
    /// The latency of the last good probe, in milliseconds; `None` while there was none.
    pub latency_ms: Option<f64>,
    /// When the endpoint last answered a probe well; `None` for never.
    pub last_seen: Option<DateTime<Utc>>,
    /// Why the last probe failed; `None` once a probe succeeds.
    probe_error: Option<String>,
    /// When and why the last request failed; `None` once a request that was sent later succeeds, or the endpoint has
    /// recovered.
    request_error: Option<(Moment, String)>,
    /// Failed probes since the last good one.
    failures_in_a_row: u32,
    /// When the newest probe that counted was sent. A probe that was sent earlier and ends later does not count.
    decided: Option<Moment>,
    /// When the last good probe was sent; `None` while there was none in this process.
    probed: Option<Moment>,
}

impl Health {
    /// Returns the health of an endpoint that has not been probed yet in this process.
    pub fn pending(latency_ms: Option<f64>, last_seen: Option<DateTime<Utc>>) -> Self {
        Self {
            status: EndpointStatus::Pending,
            latency_ms,
            last_seen,
            probe_error: None,
            request_error: None,
            failures_in_a_row: 0,
            decided: None,
            probed: None,
        }
    }

    /// Tells whether the endpoint must be probed now. The caller asks once per `interval`.
    ///
    /// A good answer to a request tells more than a probe, and some servers break off a running answer when they are
    /// probed. Therefore an endpoint that sent a byte (at `heard`) within the interval, and whose last request did not
    /// fail, is probed only when its list of models is too old.
    pub fn probe_due(&self, now: Moment, heard: Moment, interval: Duration) -> bool {
        let fresh = self.probed.is_some_and(|probed| now.since(probed) < MODELS_MAX_AGE);
        let alive = self.status == EndpointStatus::Online && now.since(heard) < interval;
        !(alive && fresh) || self.last_error().is_some()
    }

    /// Tells whether the next probe must come before its time. Requests may wait for a pending or a loading endpoint,
    /// and an online endpoint whose last probe failed may be gone.
    pub fn is_unsettled(&self) -> bool {
        match self.status {
            EndpointStatus::Pending | EndpointStatus::Loading => true,
            EndpointStatus::Online => self.failures_in_a_row > 0,
            EndpointStatus::Draining | EndpointStatus::Offline | EndpointStatus::Error => false,
        }
    }

    /// Returns why the last probe or request failed; `None` if nothing is wrong.
    pub fn last_error(&self) -> Option<&str> {
        self.probe_error.as_deref().or(self.request_error.as_ref().map(|(_, reason)| reason.as_str()))
    }

    /// Learns how a request ended whose lease was granted at `granted`.
    pub fn request_ended(&mut self, granted: Moment, outcome: &Outcome) {
        match outcome {
            Outcome::Succeeded { .. } => drop(self.request_error.take_if(|(failed, _)| granted >= *failed)),
            Outcome::Failed(_) | Outcome::Abandoned => {}
        }
    }

    /// Learns that the endpoint is to blame for a request that failed at `failed`.
    pub fn blamed(&mut self, failed: Moment, failure: &Failure) {
        self.request_error = Some((failed, failure.to_string()));
    }

    /// Learns of a good probe sent at `sent`. Returns whether the probe counts. It does not if a probe that was sent
    /// later has already ended.
    pub fn answered(&mut self, sent: Moment, wall: DateTime<Utc>, answer: &ProbeAnswer) -> bool {
        if self.decided.is_some_and(|decided| sent < decided) {
            return false;
        }
        if self.status != EndpointStatus::Online {
            self.request_error = None;
        }
        self.decided = Some(sent);
        self.probed = Some(sent);
        self.status = if answer.is_loading { EndpointStatus::Loading } else { EndpointStatus::Online };
        self.latency_ms = Some(answer.latency.as_secs_f64() * 1000.0);
        self.last_seen = Some(wall);
        self.probe_error = None;
        self.failures_in_a_row = 0;
        true
    }

    /// Learns of a failed probe sent at `sent`.
    ///
    /// An online or loading endpoint keeps its status until `failures_to_offline` probes have failed in a row; any
    /// other endpoint gets the status of the failure at once. A probe does not count if a probe that was sent later has
    /// already ended, if Leaseway could not send it, or if the endpoint is online and sent a byte (at `heard`) after
    /// `sent`, because it is then busy and not gone.
    pub fn failed(&mut self, sent: Moment, heard: Moment, failure: ProbeFailure, failures_to_offline: u32) {
        let (status, reason) = match failure {
            ProbeFailure::Unreachable(reason) => (EndpointStatus::Offline, reason),
            ProbeFailure::Wrong(reason) => (EndpointStatus::Error, reason),
            ProbeFailure::NotSent(_) => return,
        };
        let is_outdated = self.decided.is_some_and(|decided| sent < decided);
        if is_outdated || (self.status == EndpointStatus::Online && heard > sent) {
            return;
        }
        self.decided = Some(sent);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.probe_error = Some(reason);
        let was_well = matches!(self.status, EndpointStatus::Online | EndpointStatus::Loading);
        if !was_well || self.failures_in_a_row >= failures_to_offline {
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

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn answer(latency_ms: u64) -> ProbeAnswer {
        ProbeAnswer { latency: Duration::from_millis(latency_ms), models: None, kind: None, is_loading: false }
    }

    fn online() -> Health {
        let mut health = Health::pending(None, None);
        health.answered(at(10), wall(), &answer(120));
        health
    }

    /// Returns a time to send the next probe, later than that of every other probe.
    fn next(health: &Health) -> Moment {
        health.decided.map_or(at(100), |decided| decided.after(Duration::from_secs(1)))
    }

    /// Lets the next probe fail, long after the endpoint last sent a byte.
    fn fail(health: &mut Health, failures_to_offline: u32) {
        let refused = ProbeFailure::Unreachable("refused".to_owned());
        health.failed(next(health), at(5), refused, failures_to_offline);
    }

    /// Lets the next probe have this answer.
    fn find(health: &mut Health, answer: &ProbeAnswer) {
        assert!(health.answered(next(health), wall(), answer));
    }

    #[test]
    fn the_first_probe_decides_at_once() {
        let mut health = Health::pending(None, None);
        fail(&mut health, 3);
        assert_eq!(health.status, EndpointStatus::Offline);
        let mut health = Health::pending(None, None);
        health.failed(at(1), at(0), ProbeFailure::Wrong("404".to_owned()), 3);
        assert_eq!(health.status, EndpointStatus::Error);
    }

    #[test]
    fn an_online_endpoint_goes_offline_after_failures_in_a_row_and_keeps_its_latency() {
        let mut health = online();
        fail(&mut health, 2);
        assert_eq!(health.status, EndpointStatus::Online);
        find(&mut health, &answer(120));
        fail(&mut health, 2);
        assert_eq!(health.status, EndpointStatus::Online, "a good probe starts the count again");
        fail(&mut health, 2);
        assert_eq!((health.status, health.latency_ms), (EndpointStatus::Offline, Some(120.0)));
        assert_eq!(health.last_error(), Some("refused"));
        find(&mut health, &answer(95));
        assert_eq!((health.status, health.latency_ms), (EndpointStatus::Online, Some(95.0)));
        assert_eq!(health.last_error(), None);
    }

    #[test]
    fn loading_is_not_failing() {
        let mut health = online();
        fail(&mut health, 2);
        find(&mut health, &ProbeAnswer { is_loading: true, ..answer(5) });
        assert_eq!((health.status, health.last_error()), (EndpointStatus::Loading, None));
        find(&mut health, &answer(5));
        fail(&mut health, 2);
        assert_eq!(health.status, EndpointStatus::Online, "it has failed once since");
    }

    #[test]
    fn a_failed_request_is_told_of_until_one_succeeds_or_the_endpoint_recovers() {
        let failure = Failure::Status(500);
        let mut health = online();
        health.request_ended(at(0), &Outcome::Failed(failure.clone()));
        assert_eq!(health.last_error(), None, "whom to blame is not known yet");
        health.blamed(at(7), &failure);
        find(&mut health, &answer(5));
        assert_eq!(health.last_error(), Some("answered 500"), "a probe proves nothing about requests");
        health.request_ended(at(8), &Outcome::Failed(Failure::Status(404)));
        health.request_ended(at(8), &Outcome::Abandoned);
        health.request_ended(at(6), &Outcome::Succeeded { tokens: None });
        assert_eq!(health.last_error(), Some("answered 500"), "an older success proves nothing");
        health.request_ended(at(7), &Outcome::Succeeded { tokens: None });
        assert_eq!(health.last_error(), None);
        health.blamed(at(7), &failure);
        fail(&mut health, 1);
        assert_eq!(health.last_error(), Some("refused"));
        find(&mut health, &answer(5));
        assert_eq!(health.last_error(), None);
    }

    #[test]
    fn the_next_probe_cannot_wait_while_it_is_not_certain_how_an_endpoint_is() {
        let mut health = online();
        assert!(!health.is_unsettled());
        fail(&mut health, 2);
        assert!(health.is_unsettled(), "it has failed once");
        fail(&mut health, 2);
        assert!(!health.is_unsettled(), "it is offline");
        find(&mut health, &ProbeAnswer { is_loading: true, ..answer(5) });
        assert!(health.is_unsettled(), "it is loading");
    }

    #[test]
    fn a_loading_endpoint_takes_as_many_failures_to_go_as_one_that_is_online() {
        let mut health = Health::pending(None, None);
        health.answered(at(10), wall(), &ProbeAnswer { is_loading: true, ..answer(5) });
        for expected in [EndpointStatus::Loading, EndpointStatus::Loading, EndpointStatus::Offline] {
            fail(&mut health, 3);
            assert_eq!(health.status, expected);
        }
    }

    #[test]
    fn the_probe_that_was_sent_last_decides_whichever_ends_last() {
        let refused = || ProbeFailure::Unreachable("refused".to_owned());
        let mut health = online();
        health.failed(at(30), at(10), refused(), 1);
        assert!(!health.answered(at(29), wall(), &answer(5)), "an older success counts for nothing");
        assert_eq!((health.status, health.latency_ms), (EndpointStatus::Offline, Some(120.0)));
        assert!(health.answered(at(31), wall(), &answer(5)));
        health.failed(at(30), at(10), refused(), 1);
        assert_eq!((health.status, health.last_error()), (EndpointStatus::Online, None), "nor does an older failure");
    }

    #[test]
    fn a_probe_that_could_not_be_sent_says_nothing_about_the_endpoint() {
        let ours = || ProbeFailure::NotSent("too many open files".to_owned());
        for mut health in [online(), Health::pending(None, None)] {
            let before = health.clone();
            health.failed(at(100), at(10), ours(), 1);
            assert_eq!(health, before);
        }
        assert!(Health::pending(None, None).is_unsettled(), "it is probed again soon");
    }

    #[test]
    fn an_endpoint_whose_requests_fail_is_probed_however_much_it_sends() {
        let mut health = online();
        assert!(!health.probe_due(at(21), at(21), Duration::from_secs(30)));
        health.blamed(at(20), &Failure::Status(504));
        assert!(health.probe_due(at(21), at(21), Duration::from_secs(30)));
    }

    #[test]
    fn an_endpoint_that_sends_is_not_taken_offline_by_a_slow_probe() {
        let mut health = online();
        let late = || ProbeFailure::Unreachable("no answer within 5 s".to_owned());
        health.failed(at(20), at(21), late(), 1);
        assert_eq!((health.status, health.last_error()), (EndpointStatus::Online, None));
        health.failed(at(20), at(20), late(), 1);
        assert_eq!(health.status, EndpointStatus::Offline);
    }

    #[test]
    fn an_endpoint_that_sends_is_probed_only_for_its_models() {
        let interval = Duration::from_secs(30);
        let check = |health: &Health, now, heard, due| assert_eq!(health.probe_due(at(now), at(heard), interval), due);
        check(&online(), 50, 5, true);
        check(&online(), 50, 20, true);
        check(&online(), 50, 21, false);
        check(&online(), 309, 308, false);
        check(&online(), 310, 309, true);
        check(&Health::pending(None, None), 50, 49, true);
        let mut offline = online();
        fail(&mut offline, 1);
        check(&offline, 20, 19, true);
    }
}
