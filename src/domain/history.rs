//! What ended requests leave behind: counters, daily sums and history rows, gathered until they are written.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use foldhash::HashMap;

use super::ids::{EndpointId, ModelId};
use super::request::{ApiKind, EndedLease, Outcome, UnservedRequest};

/// History rows that are kept until they can be written. More come only while the database cannot be written, and are
/// dropped; what they count is not.
pub const ROWS_MAX: usize = 50_000;

/// Leases, or requests; abandoned ones count in the total only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub total: i64,
    pub successful: i64,
    pub failed: i64,
}

impl Counters {
    const SUCCEEDED: Self = Self { total: 1, successful: 1, failed: 0 };
    const FAILED: Self = Self { total: 1, successful: 0, failed: 1 };
    const ABANDONED: Self = Self { total: 1, successful: 0, failed: 0 };

    /// Counts one ended lease.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded { .. } => Self::SUCCEEDED,
            Outcome::Failed(_) => Self::FAILED,
            Outcome::Abandoned => Self::ABANDONED,
        }
    }

    pub fn add(&mut self, more: Counters) {
        self.total += more.total;
        self.successful += more.successful;
        self.failed += more.failed;
    }
}

/// What daily statistics are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DailyKey {
    pub endpoint: EndpointId,
    pub model: ModelId,
    pub api_kind: ApiKind,
    /// The server's local day on which the lease ended.
    pub date: NaiveDate,
}

/// Leases of one day. Time counts only where there are tokens, so that tokens ÷ time is a speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailySums {
    pub leases: Counters,
    pub output_tokens: i64,
    pub duration_ms: i64,
    /// Leases with both.
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
    pub created_at: DateTime<Utc>,
    pub end: HistoryEnd,
}

/// What a history row is about.
#[derive(Clone, Debug)]
pub enum HistoryEnd {
    Lease(Arc<EndedLease>),
    Unserved(UnservedRequest),
}

impl HistoryEnd {
    /// Returns how the request counts that has ended with this; `None` if it goes on.
    pub fn request(&self) -> Option<Counters> {
        match self {
            HistoryEnd::Lease(ended) => ended.is_final.then(|| Counters::of(&ended.outcome)),
            HistoryEnd::Unserved(UnservedRequest { refusal: Some(_), .. }) => Some(Counters::FAILED),
            HistoryEnd::Unserved(UnservedRequest { refusal: None, .. }) => Some(Counters::ABANDONED),
        }
    }
}

/// What is written together, or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    pub endpoints: HashMap<EndpointId, Counters>,
    pub daily: HashMap<DailyKey, DailySums>,
    pub requests: HashMap<NaiveDate, Counters>,
    /// In the order in which they came.
    pub rows: Vec<HistoryRow>,
}

/// What is not yet on its way to the database.
#[derive(Debug, Default)]
pub struct Unwritten {
    batch: Batch,
    /// Rows that were taken and may be put back.
    rows_away: usize,
    rows_dropped: u64,
}

impl Unwritten {
    pub fn is_empty(&self) -> bool {
        self.batch.endpoints.is_empty() && self.batch.requests.is_empty()
    }

    /// Returns how many history rows found no room so far.
    pub fn rows_dropped(&self) -> u64 {
        self.rows_dropped
    }

    /// Returns everything, to be written.
    pub fn take(&mut self) -> Batch {
        self.rows_away = self.batch.rows.len();
        std::mem::take(&mut self.batch)
    }

    /// Learns that what was taken is written.
    pub fn written(&mut self) {
        self.rows_away = 0;
    }

    /// Takes up an end, `today` being the server's local day.
    pub fn record(&mut self, today: NaiveDate, row: HistoryRow) {
        if let HistoryEnd::Lease(ended) = &row.end {
            self.batch.endpoints.entry(ended.endpoint).or_default().add(Counters::of(&ended.outcome));
            let (model, api_kind) = (ended.request.model.clone(), ended.request.api_kind);
            let key = DailyKey { endpoint: ended.endpoint, model, api_kind, date: today };
            self.batch.daily.entry(key).or_default().add(DailySums::of(ended));
        }
        if let Some(request) = row.end.request() {
            self.batch.requests.entry(today).or_default().add(request);
        }
        self.keep(row);
    }

    /// Takes a batch back that could not be written.
    pub fn put_back(&mut self, failed: Batch) {
        self.rows_away = 0;
        let newer = std::mem::replace(&mut self.batch, failed);
        for (id, counters) in newer.endpoints {
            self.batch.endpoints.entry(id).or_default().add(counters);
        }
        for (key, sums) in newer.daily {
            self.batch.daily.entry(key).or_default().add(sums);
        }
        for (date, counters) in newer.requests {
            self.batch.requests.entry(date).or_default().add(counters);
        }
        newer.rows.into_iter().for_each(|row| self.keep(row));
    }

    fn keep(&mut self, row: HistoryRow) {
        if self.batch.rows.len() + self.rows_away < ROWS_MAX {
            self.batch.rows.push(row);
        } else {
            self.rows_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{ClientId, RequestId};
    use crate::domain::request::{Failure, LeaseRequest, Refusal, TokenCount};

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
            endpoint: ENDPOINT,
            outcome,
            is_final,
            duration: Duration::from_millis(2000),
            first_token: None,
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
        let mut unwritten = Unwritten::default();
        assert!(unwritten.is_empty());
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
        rows.into_iter().for_each(|row| unwritten.record(day(1), row));
        assert!(!unwritten.is_empty());
        let batch = unwritten.take();
        assert!(unwritten.is_empty());
        assert_eq!(batch.endpoints[&ENDPOINT], counters(6, 3, 2));
        assert_eq!(batch.requests[&day(1)], counters(7, 3, 2));
        let sums = batch.daily.values().next().expect("one key");
        let expected = DailySums { leases: counters(6, 3, 2), output_tokens: 100, duration_ms: 2000, measured: 1 };
        assert_eq!((batch.daily.len(), *sums, batch.rows.len()), (1, expected, 8));
    }

    #[test]
    fn each_day_has_sums_of_its_own() {
        let mut unwritten = Unwritten::default();
        [(1, 10), (2, 20), (2, 30)].into_iter().for_each(|(on, tokens)| unwritten.record(day(on), succeeded(tokens)));
        let batch = unwritten.take();
        let tokens = |on| batch.daily.iter().find(|(key, _)| key.date == day(on)).map(|(_, sums)| sums.output_tokens);
        assert_eq!((tokens(1), tokens(2)), (Some(10), Some(50)));
        assert_eq!(batch.endpoints[&ENDPOINT].total, 3);
    }

    #[test]
    fn what_could_not_be_written_stands_before_what_came_since() {
        let mut unwritten = Unwritten::default();
        unwritten.record(day(1), succeeded(1));
        unwritten.record(day(1), unserved(None));
        let failed = unwritten.take();
        unwritten.record(day(2), succeeded(3));
        unwritten.put_back(failed);
        let batch = unwritten.take();
        let is_lease: Vec<bool> = batch.rows.iter().map(|row| matches!(row.end, HistoryEnd::Lease(_))).collect();
        assert_eq!(is_lease, [true, false, true]);
        assert_eq!((batch.endpoints[&ENDPOINT].total, batch.daily.len()), (2, 2));
        assert_eq!((batch.requests[&day(1)].total, batch.requests[&day(2)].total), (2, 1));
    }

    #[test]
    fn rows_without_room_are_dropped_and_counted_but_not_what_they_count() {
        let mut unwritten = Unwritten::default();
        (0..ROWS_MAX + 1).for_each(|_| unwritten.record(day(1), failed(true)));
        assert_eq!(unwritten.rows_dropped(), 1);
        let first = unwritten.take();
        unwritten.record(day(1), failed(true));
        assert_eq!(unwritten.rows_dropped(), 2, "those that are being written take room, too");
        unwritten.put_back(first);
        let batch = unwritten.take();
        assert_eq!((batch.rows.len(), batch.endpoints[&ENDPOINT].total), (ROWS_MAX, ROWS_MAX as i64 + 2));
        assert_eq!(batch.requests[&day(1)].failed, ROWS_MAX as i64 + 2);
        unwritten.written();
        unwritten.record(day(1), failed(true));
        assert_eq!((unwritten.rows_dropped(), unwritten.take().rows.len()), (2, 1), "there is room again");
    }
}
