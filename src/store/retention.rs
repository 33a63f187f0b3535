//! Removes old history, at most 500 rows of a table in one call.

use chrono::{DateTime, Utc};
use diesel::dsl::{max, min};
use diesel::prelude::*;

use super::history::MINUTE_MS;
use super::schema::{refused, request_history};
use super::{Connection, Store, StoreError};

/// How many rows of a table one call removes. The number is small because writes wait for the removal.
const REMOVED_AT_ONCE: i64 = 500;

/// Which part of the history is kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Rows from before this time are removed.
    pub since: DateTime<Utc>,
    /// How many rows are kept at most; the oldest are removed first.
    pub rows: i64,
}

impl Store {
    /// Removes the oldest rows that are not to be kept, at most 500 of each table. Returns whether more of them are
    /// left.
    ///
    /// # Errors
    /// If the database fails; rows that were already removed stay removed.
    pub fn remove_old(&mut self, kept: Kept) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        let since = kept.since.timestamp_millis();
        let aged = remove_aged_rows(&mut connection, since)?;
        let surplus = remove_surplus_rows(&mut connection, kept.rows)?;
        let refused = remove_refused(&mut connection, since.div_euclid(MINUTE_MS))?;
        Ok(aged || surplus || refused)
    }
}

/// Removes history rows from before `since`, in milliseconds since 1970-01-01T00:00Z. Returns whether more are left.
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

/// Removes the oldest history rows if there are more than `rows`. Returns whether more are left to remove.
///
/// Each row's id is the last id plus one, so the first and the last id give the number of rows without counting them.
/// If ids between them are missing, fewer than `rows` rows are kept, never more.
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

/// Removes the sums of refused requests from before the minute `since`, in minutes since 1970-01-01T00:00Z. Returns
/// whether more are left.
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

    /// Returns a database with a history row for each second, and a sum of refused requests for each minute of these
    /// seconds.
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

    /// Returns the number of history rows, the second of the oldest one, and the number of minutes with refused
    /// requests.
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
