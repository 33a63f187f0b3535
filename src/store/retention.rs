//! Removes old history, a few rows at a time.

use chrono::{DateTime, Utc};
use diesel::dsl::{max, min};
use diesel::prelude::*;

use super::history::MINUTE_MS;
use super::schema::{refused, request_history};
use super::{Connection, Store, StoreError};

/// How many rows are removed at once: so few that nobody notices the wait.
const REMOVED_AT_ONCE: i64 = 500;

/// What is kept of the history.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Nothing from before.
    pub since: DateTime<Utc>,
    /// No more rows than these, the newest.
    pub rows: i64,
}

impl Store {
    /// Removes the oldest few of what is not to be kept. Returns whether more is left.
    ///
    /// # Errors
    /// If the database fails; what was removed until then stays removed.
    pub fn remove_old(&mut self, kept: Kept) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        let since = kept.since.timestamp_millis();
        let aged = remove_aged_rows(&mut connection, since)?;
        let surplus = remove_surplus_rows(&mut connection, kept.rows)?;
        let refused = remove_refused(&mut connection, since.div_euclid(MINUTE_MS))?;
        Ok(aged || surplus || refused)
    }
}

/// Removes rows from before `since`, in milliseconds.
fn remove_aged_rows(connection: &mut Connection, since: i64) -> QueryResult<bool> {
    let last: Option<i64> = request_history::table
        .filter(request_history::created_at.lt(since))
        .order(request_history::created_at)
        .offset(REMOVED_AT_ONCE - 1)
        .select(request_history::created_at)
        .first(connection)
        .optional()?;
    let aged = request_history::table.filter(request_history::created_at.le(last.unwrap_or(since - 1)));
    diesel::delete(aged).execute(connection)?;
    Ok(last.is_some())
}

/// Removes the oldest rows of more than `rows`.
///
/// Ids grow by one with each row, so the ids of the first and the last row tell how many there are without counting them.
/// Where a gap lies between them, fewer rows are kept, never more.
fn remove_surplus_rows(connection: &mut Connection, rows: i64) -> QueryResult<bool> {
    let newest: Option<i64> = request_history::table.select(max(request_history::id)).first(connection)?;
    let oldest: Option<i64> = request_history::table.select(min(request_history::id)).first(connection)?;
    let (Some(newest), Some(oldest)) = (newest, oldest) else { return Ok(false) };
    let surplus = newest - rows;
    if surplus < oldest {
        return Ok(false);
    }
    let last = surplus.min(oldest + REMOVED_AT_ONCE - 1);
    diesel::delete(request_history::table.filter(request_history::id.le(last))).execute(connection)?;
    Ok(last < surplus)
}

/// Removes sums of refused requests from before the minute `since`.
fn remove_refused(connection: &mut Connection, since: i64) -> QueryResult<bool> {
    let last: Option<i64> = refused::table
        .filter(refused::minute.lt(since))
        .order(refused::minute)
        .offset(REMOVED_AT_ONCE - 1)
        .select(refused::minute)
        .first(connection)
        .optional()?;
    diesel::delete(refused::table.filter(refused::minute.le(last.unwrap_or(since - 1)))).execute(connection)?;
    Ok(last.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::history::{Batch, HistoryEnd, HistoryRow};
    use crate::domain::ids::{ClientId, ModelId, RequestId};
    use crate::domain::refused::RefusedKey;
    use crate::domain::request::{ApiKind, LeaseRequest, UnservedRequest};

    fn time(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    /// A database with a row for each of these seconds, and a refused request in each of their minutes.
    fn store(seconds: impl Iterator<Item = i64>) -> Store {
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
        let (id, model) = (RequestId::from("r"), ModelId::from("m"));
        let client = ClientId::Address([127, 0, 0, 1].into());
        let request = Arc::new(LeaseRequest::new(id, model, ApiKind::ChatCompletions, client));
        let row = |second| {
            let request = request.clone();
            let end = HistoryEnd::Unserved(UnservedRequest { request, refusal: None, waited: Duration::ZERO });
            HistoryRow { created_at: time(second), end }
        };
        let rows: Vec<HistoryRow> = seconds.map(row).collect();
        let key =
            |row: &HistoryRow| RefusedKey { minute: row.created_at.timestamp().div_euclid(60), code: "queue_full" };
        let refused = rows.iter().map(|row| (key(row), 1)).collect();
        store.write_batch(&Batch { rows, refused, ..Batch::default() }).expect("written");
        store
    }

    /// Returns how many rows are left, from which second on, and in how many minutes requests were refused.
    fn left(store: &mut Store) -> (i64, Option<i64>, i64) {
        let mut connection = store.connection().expect("a connection");
        let rows = request_history::table.count().get_result(&mut connection).expect("counted");
        let first: Option<i64> =
            request_history::table.select(min(request_history::created_at)).first(&mut connection).expect("read");
        let minutes = refused::table.count().get_result(&mut connection).expect("counted");
        (rows, first.map(|millis| millis / 1000), minutes)
    }

    #[test]
    fn what_is_too_old_goes_in_bits() {
        let mut store = store(0..1200);
        let kept = Kept { since: time(1100), rows: 10_000 };
        let bits: Vec<bool> = (0..3).map(|_| store.remove_old(kept).expect("removed")).collect();
        assert_eq!(bits, [true, true, false]);
        assert_eq!(left(&mut store), (100, Some(1100), 2), "the minute in which it begins is kept whole");
    }

    #[test]
    fn the_oldest_of_too_many_rows_go_in_bits() {
        let mut store = store((0..1200).map(|row| row * 60));
        let kept = |rows| Kept { since: time(0), rows };
        assert!(!store.remove_old(kept(1200)).expect("nothing to remove"));
        assert_eq!(left(&mut store), (1200, Some(0), 1200));
        let bits: Vec<bool> = (0..3).map(|_| store.remove_old(kept(100)).expect("removed")).collect();
        assert_eq!(bits, [true, true, false]);
        assert_eq!(left(&mut store), (100, Some(1100 * 60), 1200));
    }

    #[test]
    fn a_gap_between_rows_never_keeps_more() {
        let mut store = store(0..1000);
        let mut connection = store.connection().expect("a connection");
        diesel::delete(request_history::table.filter(request_history::id.between(200, 899)))
            .execute(&mut connection)
            .expect("a gap");
        drop(connection);
        let kept = Kept { since: time(0), rows: 100 };
        let bits: Vec<bool> = (0..2).map(|_| store.remove_old(kept).expect("removed")).collect();
        assert_eq!(bits, [true, false]);
        assert_eq!(left(&mut store).0, 100);
    }
}
