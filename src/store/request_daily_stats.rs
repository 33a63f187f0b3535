//! The table `request_daily_stats`: requests by day. A request counts once, whatever its number of leases.

use chrono::NaiveDate;
use diesel::prelude::*;
use diesel::upsert::excluded;

use super::schema::request_daily_stats::{self as daily, table};
use super::{Connection, Store, StoreError};
use crate::domain::history::Counters;

/// Adds requests to the counters of their days.
pub(super) fn add_counters<'a>(
    connection: &mut Connection,
    counters: impl IntoIterator<Item = (&'a NaiveDate, &'a Counters)>,
) -> QueryResult<()> {
    for (date, requests) in counters {
        let row = (
            daily::date.eq(date.to_string()),
            daily::total_requests.eq(requests.total),
            daily::successful_requests.eq(requests.successful),
            daily::failed_requests.eq(requests.failed),
        );
        diesel::insert_into(table)
            .values(row)
            .on_conflict(daily::date)
            .do_update()
            .set((
                daily::total_requests.eq(daily::total_requests + excluded(daily::total_requests)),
                daily::successful_requests.eq(daily::successful_requests + excluded(daily::successful_requests)),
                daily::failed_requests.eq(daily::failed_requests + excluded(daily::failed_requests)),
            ))
            .execute(connection)?;
    }
    Ok(())
}

impl Store {
    /// Sums up the requests of all days.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_request_totals(&mut self) -> Result<Counters, StoreError> {
        let counts = (daily::total_requests, daily::successful_requests, daily::failed_requests);
        let days: Vec<(i64, i64, i64)> = table.select(counts).load(&mut *self.connection()?)?;
        let mut totals = Counters::default();
        for (total, successful, failed) in days {
            totals.add(Counters { total, successful, failed });
        }
        Ok(totals)
    }
}
