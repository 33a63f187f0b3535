//! The table `refused`: refused requests by minute and code.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::upsert::excluded;

use super::Connection;
use super::schema::refused::{self, table};
use crate::domain::refused::RefusedKey;

/// Adds refused requests to the sums of their minutes and codes.
pub(super) fn add_sums<'a>(
    connection: &mut Connection,
    sums: impl IntoIterator<Item = (&'a RefusedKey, &'a i64)>,
) -> QueryResult<()> {
    for (RefusedKey { minute, code }, requests) in sums {
        diesel::insert_into(table)
            .values((refused::minute.eq(minute), refused::code.eq(code), refused::requests.eq(requests)))
            .on_conflict((refused::minute, refused::code))
            .do_update()
            .set(refused::requests.eq(refused::requests + excluded(refused::requests)))
            .execute(connection)?;
    }
    Ok(())
}

/// Returns `(minute, requests)` for each minute from `first` to `last` in which requests were refused, in no order.
/// Minutes are counted since 1970-01-01T00:00Z.
pub(super) fn load_minutes(connection: &mut Connection, first: i64, last: i64) -> QueryResult<Vec<(i64, i64)>> {
    table
        .filter(refused::minute.between(first, last))
        .group_by(refused::minute)
        .select((refused::minute, sql::<BigInt>("CAST(SUM(requests) AS BIGINT)")))
        .load(connection)
}
