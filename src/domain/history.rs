//! The records of ended leases and requests: counters, daily sums and history rows, collected until they are written.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use foldhash::HashMap;

use super::ids::{EndpointId, ModelId};
use super::key_use::{KeyUse, UseKey};
use super::refused::RefusedKey;
use super::request::{ApiKind, EndedLease, Outcome, UnservedRequest};
use super::timeline::minute_of;

/// Counts of leases or of requests. Abandoned ones count in the total only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leases or requests that have ended.
    pub total: i64,
    /// Leases or requests that succeeded.
    pub successful: i64,
    /// Leases or requests that failed or were refused.
    pub failed: i64,
}

impl Counters {
    const SUCCEEDED: Self = Self { total: 1, successful: 1, failed: 0 };
    const FAILED: Self = Self { total: 1, successful: 0, failed: 1 };
    const ABANDONED: Self = Self { total: 1, successful: 0, failed: 0 };

    /// Returns the count of one lease or request with this outcome.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded { .. } => Self::SUCCEEDED,
            Outcome::Failed(_) => Self::FAILED,
            Outcome::Abandoned => Self::ABANDONED,
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, more: Counters) {
        self.total += more.total;
        self.successful += more.successful;
        self.failed += more.failed;
    }
}

/// The key of daily sums.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DailyKey {
    /// The endpoint that had the lease.
    pub endpoint: EndpointId,
    /// The model that the client asked for.
    pub model: ModelId,
    /// The API of the request.
    pub api_kind: ApiKind,
    /// The server's local day on which the lease ended.
    pub date: NaiveDate,
}

/// Sums over the leases of one day. The duration counts only for leases with output tokens, so that tokens ÷ time is a
/// speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailySums {
    /// The leases.
    pub leases: Counters,
    /// Output tokens of successful leases.
    pub output_tokens: i64,
    /// Duration of the measured leases, in milliseconds.
    pub duration_ms: i64,
    /// Successful leases with output tokens and a duration.
    pub measured: i64,
}

impl DailySums {
    fn of(ended: &EndedLease) -> Self {
        let leases = Counters::of(&ended.outcome);
        match ended.outcome {
            Outcome::Succeeded { tokens: Some(tokens) } => {
                let output_tokens = i64::try_from(tokens.output).unwrap_or(i64::MAX);
                let duration_ms = i64::try_from(ended.duration.as_millis()).unwrap_or(i64::MAX);
                let measured = i64::from(output_tokens > 0 && duration_ms > 0);
                Self { leases, output_tokens, duration_ms: duration_ms * measured, measured }
            }
            Outcome::Succeeded { tokens: None } | Outcome::Failed(_) | Outcome::Abandoned => {
                Self { leases, ..Self::default() }
            }
        }
    }

    fn add(&mut self, more: Self) {
        self.leases.add(more.leases);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.duration_ms = self.duration_ms.saturating_add(more.duration_ms);
        self.measured += more.measured;
    }
}

/// One row of the history.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// When the lease or the request ended.
    pub created_at: DateTime<Utc>,
    /// The lease or the request that ended.
    pub end: HistoryEnd,
}

/// What a history row is about.
#[derive(Clone, Debug)]
pub enum HistoryEnd {
    /// A lease that ended.
    Lease(Arc<EndedLease>),
    /// A request that ended without a lease.
    Unserved(UnservedRequest),
}

impl HistoryEnd {
    /// Returns the count of the request that has ended; `None` if the request goes on with another lease.
    pub fn request(&self) -> Option<Counters> {
        match self {
            HistoryEnd::Lease(ended) => ended.is_final.then(|| Counters::of(&ended.outcome)),
            HistoryEnd::Unserved(UnservedRequest { refusal: Some(_), .. }) => Some(Counters::FAILED),
            HistoryEnd::Unserved(UnservedRequest { refusal: None, .. }) => Some(Counters::ABANDONED),
        }
    }

    /// Returns the code with which the request was refused; `None` if the request was not refused.
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            HistoryEnd::Unserved(UnservedRequest { refusal: Some(refusal), .. }) => Some(refusal.code()),
            HistoryEnd::Unserved(UnservedRequest { refusal: None, .. }) | HistoryEnd::Lease(_) => None,
        }
    }
}

/// Records that are written to the database in one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    /// Ended leases by endpoint.
    pub endpoints: HashMap<EndpointId, Counters>,
    /// Ended leases by endpoint, model, API and day.
    pub daily: HashMap<DailyKey, DailySums>,
    /// Ended requests of keys, by key, model, API and day.
    pub keys: HashMap<UseKey, KeyUse>,
    /// Ended requests by the server's local day.
    pub requests: HashMap<NaiveDate, Counters>,
    /// All refused requests, with and without a row.
    pub refused: HashMap<RefusedKey, i64>,
    /// History rows in the order of their ends.
    pub rows: Vec<HistoryRow>,
}

impl Batch {
    /// Tells whether the batch holds nothing.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.requests.is_empty()
    }

    /// Counts the lease or request of a history row. `today` is the server's local day. The row itself is not added.
    pub(super) fn count(&mut self, today: NaiveDate, HistoryRow { created_at, end }: &HistoryRow) {
        if let HistoryEnd::Lease(ended) = end {
            self.endpoints.entry(ended.target.id).or_default().add(Counters::of(&ended.outcome));
            let (model, api_kind) = (ended.request.model.clone(), ended.request.api_kind);
            let key = DailyKey { endpoint: ended.target.id, model, api_kind, date: today };
            self.daily.entry(key).or_default().add(DailySums::of(ended));
        }
        if let Some((key, used)) = KeyUse::of(end, today) {
            self.keys.entry(key).or_default().add(used);
        }
        if let Some(request) = end.request() {
            self.requests.entry(today).or_default().add(request);
        }
        if let Some(code) = end.refusal() {
            *self.refused.entry(RefusedKey { minute: minute_of(*created_at), code }).or_default() += 1;
        }
    }

    /// Adds the counts of a newer batch and returns its history rows, which are not added.
    pub(super) fn add_counts(&mut self, newer: Batch) -> Vec<HistoryRow> {
        for (id, counters) in newer.endpoints {
            self.endpoints.entry(id).or_default().add(counters);
        }
        for (key, sums) in newer.daily {
            self.daily.entry(key).or_default().add(sums);
        }
        for (key, used) in newer.keys {
            self.keys.entry(key).or_default().add(used);
        }
        for (date, counters) in newer.requests {
            self.requests.entry(date).or_default().add(counters);
        }
        for (key, requests) in newer.refused {
            *self.refused.entry(key).or_default() += requests;
        }
        newer.rows
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::endpoint::EndpointDefinition;
    use crate::domain::ids::{ClientId, RequestId};
    use crate::domain::request::{Failure, LeaseRequest, Refusal, TokenCount};
    use crate::domain::target::Target;
    use crate::domain::time::Moment;

    const ENDPOINT: EndpointId = EndpointId(Uuid::from_u128(1));

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, day).expect("a day")
    }

    fn request() -> Arc<LeaseRequest> {
        Arc::new(LeaseRequest::new(
            RequestId::from("r"),
            ModelId::from("m"),
            ApiKind::ChatCompletions,
            ClientId::Address([127, 0, 0, 1].into()),
        ))
    }

    fn row(end: HistoryEnd) -> HistoryRow {
        HistoryRow { created_at: DateTime::UNIX_EPOCH, end }
    }

    fn lease(outcome: Outcome, is_final: bool) -> HistoryRow {
        row(HistoryEnd::Lease(Arc::new(EndedLease {
            request: request(),
            target: Arc::new(Target::new(ENDPOINT, &EndpointDefinition::new("a", "http://a"))),
            outcome,
            is_final,
            granted: Moment::default(),
            duration: Duration::from_millis(2000),
            first_token: None,
            answered_model: None,
            waited: Duration::ZERO,
        })))
    }

    fn succeeded(output: u64) -> HistoryRow {
        let tokens = Some(TokenCount { input: None, output, estimated: false });
        lease(Outcome::Succeeded { tokens }, true)
    }

    fn unserved(refusal: Option<Refusal>) -> HistoryRow {
        row(HistoryEnd::Unserved(UnservedRequest { request: request(), refusal, waited: Duration::ZERO }))
    }

    fn counters(total: i64, successful: i64, failed: i64) -> Counters {
        Counters { total, successful, failed }
    }

    fn failed(is_final: bool) -> HistoryRow {
        lease(Outcome::Failed(Failure::Status(500)), is_final)
    }

    #[test]
    fn leases_count_for_endpoints_and_final_answers_for_requests() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        let rows = [
            failed(false),
            succeeded(100),
            failed(true),
            lease(Outcome::Succeeded { tokens: None }, true),
            succeeded(0),
            lease(Outcome::Abandoned, true),
            unserved(Some(Refusal::Draining)),
            unserved(None),
        ];
        rows.iter().for_each(|row| batch.count(day(1), row));
        assert!(!batch.is_empty());
        assert_eq!(batch.endpoints[&ENDPOINT], counters(6, 3, 2));
        assert_eq!(batch.requests[&day(1)], counters(7, 3, 2));
        let sums = batch.daily.values().next().expect("one key");
        let expected = DailySums { leases: counters(6, 3, 2), output_tokens: 100, duration_ms: 2000, measured: 1 };
        assert_eq!((batch.daily.len(), *sums), (1, expected));
    }

    #[test]
    fn each_day_has_sums_of_its_own() {
        let mut batch = Batch::default();
        [(1, 10), (2, 20), (2, 30)].into_iter().for_each(|(on, tokens)| batch.count(day(on), &succeeded(tokens)));
        let tokens = |on| batch.daily.iter().find(|(key, _)| key.date == day(on)).map(|(_, sums)| sums.output_tokens);
        assert_eq!((tokens(1), tokens(2)), (Some(10), Some(50)));
        assert_eq!(batch.endpoints[&ENDPOINT].total, 3);
    }

    #[test]
    fn the_counts_of_a_newer_batch_are_added() {
        let (mut older, mut newer) = (Batch::default(), Batch::default());
        older.count(day(1), &succeeded(1));
        older.count(day(1), &unserved(None));
        newer.count(day(1), &failed(true));
        newer.count(day(2), &succeeded(3));
        for batch in [&mut older, &mut newer] {
            batch.count(day(1), &unserved(Some(Refusal::Draining)));
        }
        older.add_counts(newer);
        assert_eq!((older.endpoints[&ENDPOINT], older.daily.len()), (counters(3, 2, 1), 2));
        assert_eq!((older.requests[&day(1)], older.requests[&day(2)]), (counters(5, 1, 3), counters(1, 1, 0)));
        assert_eq!(older.refused[&RefusedKey { minute: 0, code: "draining" }], 2);
    }
}
