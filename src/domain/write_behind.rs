//! Decides when records go to the database: one batch at a time, a pause after a failed batch, and a bound on what
//! waits.

use std::time::Duration;

use chrono::NaiveDate;

use super::history::{Batch, HistoryRow};
use super::refused::RefusalRows;
use super::time::Moment;

/// The most history rows that wait for the database or are being written. More rows come only while the database
/// cannot be written. Such rows are dropped and counted as dropped; the sums still count their leases and
/// requests.
///
/// The sums need no bound. Their keys are registered endpoints, models that an endpoint has, keys, days, codes of
/// refusals and minutes. A client cannot invent any of these.
pub const ROWS_MAX: usize = 50_000;

/// The pause after the first failed batch. The pause doubles with each further failure in a row.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause after a failed batch.
const RETRY_MAX: Duration = Duration::from_secs(3);

/// The number of a batch among all batches of this process, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(u64);

impl BatchNumber {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The records that are not yet in the database, and the time at which they are written.
///
/// At most one batch is on its way. A failed batch is put back in front of the newer records. After a pause all of them
/// are tried as one batch with the next number.
#[derive(Debug, Default)]
pub struct WriteBehind {
    /// Records that are not in the batch that is being written.
    unwritten: Batch,
    /// History rows in the batch that is on its way; 0 without one.
    rows_away: usize,
    /// History rows dropped since the start, because [`ROWS_MAX`] rows waited.
    rows_dropped: u64,
    refusal_rows: RefusalRows,
    /// The number of the batch that was taken last.
    taken: BatchNumber,
    /// The batch that was taken last is on its way.
    is_writing: bool,
    /// The interval has passed, or a batch has failed: everything is written as soon as possible.
    is_due: bool,
    /// A caller of [`flush`](Self::flush) waits for all batches up to this one.
    wanted: BatchNumber,
    /// Batches that failed in a row.
    failures: u32,
    /// No batch is taken before this time.
    retry: Moment,
}

/// A batch is in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// All records of the batches up to this number are written.
    pub number: BatchNumber,
    /// History rows in the batch.
    pub rows: usize,
    /// The batch before it had failed.
    pub is_recovery: bool,
}

/// A batch could not be written and is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The batch before it had not failed.
    pub is_first: bool,
    /// How long no batch is taken.
    pub pause: Duration,
}

impl WriteBehind {
    /// Records the end of a lease or a request. `today` is the server's local day.
    pub fn record(&mut self, today: NaiveDate, row: HistoryRow) {
        self.unwritten.count(today, &row);
        let second = row.created_at.timestamp();
        if row.end.refusal().is_none_or(|code| self.refusal_rows.has_room(code, second)) {
            self.keep(row);
        }
    }

    /// Returns how many history rows were dropped since the start for want of room.
    pub fn rows_dropped(&self) -> u64 {
        self.rows_dropped
    }

    /// Learns that the flush interval has passed, so that the unwritten records must be written.
    pub fn interval_passed(&mut self) {
        self.is_due = true;
    }

    /// Asks that everything recorded so far is written without waiting for the interval. Returns the number of the
    /// batch that completes this; `None` if everything is already written.
    pub fn flush(&mut self) -> Option<BatchNumber> {
        let last = match (self.unwritten.is_empty(), self.is_writing) {
            (true, false) => return None,
            (true, true) => self.taken,
            (false, _) => self.taken.next(),
        };
        self.wanted = self.wanted.max(last);
        Some(last)
    }

    /// Returns the next batch; `None` if there is nothing to write now.
    pub fn next(&mut self, now: Moment) -> Option<Batch> {
        if self.unwritten.is_empty() {
            self.is_due = false;
            return None;
        }
        let is_wanted = self.is_due || self.wanted > self.taken;
        if self.is_writing || !is_wanted || now < self.retry {
            return None;
        }
        (self.is_due, self.is_writing) = (false, true);
        self.taken = self.taken.next();
        self.rows_away = self.unwritten.rows.len();
        Some(std::mem::take(&mut self.unwritten))
    }

    /// Learns that the batch on its way is written.
    pub fn written(&mut self) -> Written {
        self.is_writing = false;
        let rows = std::mem::take(&mut self.rows_away);
        Written { number: self.taken, rows, is_recovery: std::mem::take(&mut self.failures) > 0 }
    }

    /// Takes back the batch that was on its way, because it could not be written.
    pub fn failed(&mut self, batch: Batch, now: Moment) -> Failed {
        (self.is_writing, self.rows_away, self.is_due) = (false, 0, true);
        let newer = std::mem::replace(&mut self.unwritten, batch);
        for row in self.unwritten.add_counts(newer) {
            self.keep(row);
        }
        let is_first = self.failures == 0;
        let pause = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.retry = now.after(pause);
        Failed { is_first, pause }
    }

    fn keep(&mut self, row: HistoryRow) {
        if self.unwritten.rows.len() + self.rows_away < ROWS_MAX {
            self.unwritten.rows.push(row);
        } else {
            self.rows_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::domain::history::{Counters, HistoryEnd};
    use crate::domain::ids::{ClientId, ModelId, RequestId};
    use crate::domain::refused::RefusedKey;
    use crate::domain::request::{ApiKind, LeaseRequest, Refusal, UnservedRequest};

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// Returns the history row of a request that was abandoned in this second.
    fn row(second: i64) -> HistoryRow {
        let request = Arc::new(LeaseRequest::new(
            RequestId::from("r"),
            ModelId::from("m"),
            ApiKind::ChatCompletions,
            ClientId::Address([127, 0, 0, 1].into()),
        ));
        let end = HistoryEnd::Unserved(UnservedRequest { request, refusal: None, waited: Duration::ZERO });
        HistoryRow { created_at: DateTime::from_timestamp(second, 0).expect("a time"), end }
    }

    fn record(write_behind: &mut WriteBehind, seconds: impl IntoIterator<Item = i64>) {
        seconds.into_iter().for_each(|second| write_behind.record(NaiveDate::default(), row(second)));
    }

    fn seconds(batch: &Batch) -> Vec<i64> {
        batch.rows.iter().map(|row| row.created_at.timestamp()).collect()
    }

    #[test]
    fn what_is_recorded_waits_for_the_interval_and_one_batch_follows_another() {
        let mut unwritten = WriteBehind::default();
        unwritten.interval_passed();
        assert!(unwritten.next(at(0)).is_none(), "there is nothing to write");
        record(&mut unwritten, [1]);
        assert!(unwritten.next(at(1)).is_none(), "the interval has not passed again");
        unwritten.interval_passed();
        assert_eq!(unwritten.next(at(2)).as_ref().map(seconds), Some(vec![1]));
        record(&mut unwritten, [2]);
        unwritten.interval_passed();
        assert!(unwritten.next(at(3)).is_none(), "a batch is on its way");
        unwritten.written();
        assert_eq!(unwritten.next(at(4)).as_ref().map(seconds), Some(vec![2]), "its interval has passed meanwhile");
        record(&mut unwritten, [3]);
        unwritten.written();
        assert!(unwritten.next(at(5)).is_none());
    }

    #[test]
    fn a_flush_waits_for_the_batch_that_holds_all_from_before_it() {
        let mut unwritten = WriteBehind::default();
        assert_eq!(unwritten.flush(), None);
        record(&mut unwritten, [1]);
        assert_eq!(unwritten.flush(), Some(BatchNumber(1)));
        assert!(unwritten.next(at(0)).is_some(), "at once");
        assert_eq!(unwritten.flush(), Some(BatchNumber(1)), "all of it is on its way");
        record(&mut unwritten, [2]);
        assert_eq!(unwritten.flush(), Some(BatchNumber(2)));
        assert!(unwritten.next(at(1)).is_none(), "one batch at a time");
        assert_eq!(unwritten.written(), Written { number: BatchNumber(1), rows: 1, is_recovery: false });
        assert!(unwritten.next(at(2)).is_some(), "somebody waits for it");
        assert_eq!(unwritten.written().number, BatchNumber(2));
        assert_eq!(unwritten.flush(), None);
    }

    #[test]
    fn a_failed_batch_stands_before_what_has_come_since_and_satisfies_who_waited_for_it() {
        let mut unwritten = WriteBehind::default();
        record(&mut unwritten, [1, 2]);
        let number = unwritten.flush().expect("something to write");
        let batch = unwritten.next(at(0)).expect("a batch");
        record(&mut unwritten, [3]);
        unwritten.failed(batch, at(0));
        assert!(unwritten.next(at(99)).is_none());
        let batch = unwritten.next(at(100)).expect("due without an interval");
        assert_eq!((seconds(&batch), batch.requests[&NaiveDate::default()].total), (vec![1, 2, 3], 3));
        let written = unwritten.written();
        assert!(written.number >= number && written.is_recovery);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_start_anew_after_a_success() {
        let mut unwritten = WriteBehind::default();
        record(&mut unwritten, [1]);
        unwritten.interval_passed();
        let mut now = at(0);
        for (failures, pause) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1600), (5, 3000), (6, 3000)] {
            let batch = unwritten.next(now).expect("its pause is over");
            let expected = Failed { is_first: failures == 0, pause: Duration::from_millis(pause) };
            assert_eq!(unwritten.failed(batch, now), expected);
            now = now.after(expected.pause);
        }
        unwritten.next(now).expect("its pause is over");
        assert!(unwritten.written().is_recovery);
        record(&mut unwritten, [2]);
        unwritten.interval_passed();
        let batch = unwritten.next(now).expect("a batch");
        assert!(unwritten.failed(batch, now).is_first);
    }

    #[test]
    fn refusals_are_all_counted_but_few_are_rows() {
        let mut unwritten = WriteBehind::default();
        let refused = |second, refusal: Refusal| {
            let HistoryRow { created_at, end } = row(second);
            let HistoryEnd::Unserved(unserved) = end else { panic!("a request that got no lease") };
            HistoryRow { created_at, end: HistoryEnd::Unserved(UnservedRequest { refusal: Some(refusal), ..unserved }) }
        };
        let full = Refusal::QueueFull { estimated_wait: None };
        for (second, refusal, times) in [(58, full.clone(), 1000), (58, Refusal::Draining, 10), (60, full, 500)] {
            (0..times).for_each(|_| unwritten.record(NaiveDate::default(), refused(second, refusal.clone())));
        }
        record(&mut unwritten, [60, 60]);
        unwritten.interval_passed();
        let batch = unwritten.next(at(0)).expect("a batch");
        assert_eq!(seconds(&batch), [58, 58, 60, 60, 60], "each abandoned request is a row");
        let requests = |minute, code| batch.refused[&RefusedKey { minute, code }];
        let all = (requests(0, "queue_full"), requests(0, "draining"), requests(1, "queue_full"));
        assert_eq!((all, batch.refused.len()), ((1000, 10, 500), 3));
        assert_eq!(batch.requests[&NaiveDate::default()], Counters { total: 1512, successful: 0, failed: 1510 });
        assert_eq!(unwritten.rows_dropped(), 0);
    }

    #[test]
    fn rows_without_room_are_dropped_and_counted_but_not_what_they_count() {
        let mut unwritten = WriteBehind::default();
        record(&mut unwritten, 0..=ROWS_MAX as i64);
        assert_eq!(unwritten.rows_dropped(), 1);
        unwritten.interval_passed();
        let first = unwritten.next(at(0)).expect("a batch");
        record(&mut unwritten, [0]);
        assert_eq!(unwritten.rows_dropped(), 2, "rows that are being written take room, too");
        unwritten.failed(first, at(0));
        let batch = unwritten.next(at(100)).expect("a batch");
        let counted = batch.requests[&NaiveDate::default()].total;
        assert_eq!((batch.rows.len(), counted), (ROWS_MAX, ROWS_MAX as i64 + 2));
        unwritten.written();
        record(&mut unwritten, [0]);
        assert_eq!(unwritten.rows_dropped(), 2, "there is room again");
    }
}
