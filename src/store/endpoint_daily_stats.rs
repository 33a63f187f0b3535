//! The table `endpoint_daily_stats`: leases by endpoint, model, day and API.

use chrono::NaiveDate;
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::upsert::excluded;
use uuid::Uuid;

use super::schema::endpoint_daily_stats::{self as daily, table};
use super::{Connection, Store, StoreError};
use crate::domain::history::{Counters, DailyKey, DailySums};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::ApiKind;

/// How many rows one statement adds. Databases limit the number of values in a statement.
const ADDED_AT_ONCE: usize = 100;

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = daily)]
#[diesel(treat_none_as_default_value = false)]
struct Row {
    endpoint_id: String,
    model_id: String,
    date: String,
    api_kind: String,
    total_requests: i64,
    successful_requests: i64,
    failed_requests: i64,
    total_output_tokens: i64,
    total_duration_ms: i64,
    measured_requests: i64,
}

impl From<(&DailyKey, &DailySums)> for Row {
    fn from((key, sums): (&DailyKey, &DailySums)) -> Self {
        Self {
            endpoint_id: key.endpoint.to_string(),
            model_id: key.model.as_str().to_owned(),
            date: key.date.to_string(),
            api_kind: key.api_kind.as_str().to_owned(),
            total_requests: sums.leases.total,
            successful_requests: sums.leases.successful,
            failed_requests: sums.leases.failed,
            total_output_tokens: sums.output_tokens,
            total_duration_ms: sums.duration_ms,
            measured_requests: sums.measured,
        }
    }
}

impl Row {
    /// Returns the key and the sums of the row; `None` if a part of the key cannot be read.
    fn into_sums(self) -> Option<(DailyKey, DailySums)> {
        let key = DailyKey {
            endpoint: EndpointId(Uuid::parse_str(&self.endpoint_id).ok()?),
            model: ModelId::from(self.model_id.as_str()),
            api_kind: ApiKind::from_name(&self.api_kind)?,
            date: self.date.parse().ok()?,
        };
        let (total, successful, failed) = (self.total_requests, self.successful_requests, self.failed_requests);
        let sums =
            (total, successful, failed, self.total_output_tokens, self.total_duration_ms, self.measured_requests);
        Some((key, to_sums(sums)))
    }
}

/// The values of the columns that are summed up, in the order of [`sums`].
type Sums = (i64, i64, i64, i64, i64, i64);

/// A sum as a whole number. Some databases return sums of whole numbers in another type.
type WholeSum = SqlLiteral<BigInt>;

fn sums() -> (WholeSum, WholeSum, WholeSum, WholeSum, WholeSum, WholeSum) {
    (
        sql("CAST(SUM(total_requests) AS BIGINT)"),
        sql("CAST(SUM(successful_requests) AS BIGINT)"),
        sql("CAST(SUM(failed_requests) AS BIGINT)"),
        sql("CAST(SUM(total_output_tokens) AS BIGINT)"),
        sql("CAST(SUM(total_duration_ms) AS BIGINT)"),
        sql("CAST(SUM(measured_requests) AS BIGINT)"),
    )
}

fn to_sums((total, successful, failed, output_tokens, duration_ms, measured): Sums) -> DailySums {
    DailySums { leases: Counters { total, successful, failed }, output_tokens, duration_ms, measured }
}

/// Adds leases to the sums of their endpoint, model, API and day.
pub(super) fn add_sums<'a>(
    connection: &mut Connection,
    sums: impl IntoIterator<Item = (&'a DailyKey, &'a DailySums)>,
) -> QueryResult<()> {
    let rows: Vec<Row> = sums.into_iter().map(Row::from).collect();
    for rows in rows.chunks(ADDED_AT_ONCE) {
        diesel::insert_into(table)
            .values(rows)
            .on_conflict((daily::endpoint_id, daily::model_id, daily::date, daily::api_kind))
            .do_update()
            .set((
                daily::total_requests.eq(daily::total_requests + excluded(daily::total_requests)),
                daily::successful_requests.eq(daily::successful_requests + excluded(daily::successful_requests)),
                daily::failed_requests.eq(daily::failed_requests + excluded(daily::failed_requests)),
                daily::total_output_tokens.eq(daily::total_output_tokens + excluded(daily::total_output_tokens)),
                daily::total_duration_ms.eq(daily::total_duration_ms + excluded(daily::total_duration_ms)),
                daily::measured_requests.eq(daily::measured_requests + excluded(daily::measured_requests)),
            ))
            .execute(connection)?;
    }
    Ok(())
}

impl Store {
    /// Sums up the output tokens of all days.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_output_tokens(&mut self) -> Result<i64, StoreError> {
        let tokens: Vec<i64> = table.select(daily::total_output_tokens).load(&mut *self.connection()?)?;
        Ok(tokens.into_iter().fold(0, i64::saturating_add))
    }

    /// Sums up all days by model, in the order of the models' names: for one endpoint, or with `None` for all
    /// endpoints, removed ones included.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_model_sums(&mut self, endpoint: Option<EndpointId>) -> Result<Vec<(ModelId, DailySums)>, StoreError> {
        let mut query =
            table.group_by(daily::model_id).select((daily::model_id, sums())).order(daily::model_id).into_boxed();
        if let Some(EndpointId(id)) = endpoint {
            query = query.filter(daily::endpoint_id.eq(id.to_string()));
        }
        let rows: Vec<(String, Sums)> = query.load(&mut *self.connection()?)?;
        Ok(rows.into_iter().map(|(model, sums)| (ModelId::from(model.as_str()), to_sums(sums))).collect())
    }

    /// Sums up each day of one endpoint from `first` on, oldest first. Days without a lease are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_days(
        &mut self,
        EndpointId(id): EndpointId,
        first: NaiveDate,
    ) -> Result<Vec<(NaiveDate, DailySums)>, StoreError> {
        let rows: Vec<(String, Sums)> = table
            .filter(daily::endpoint_id.eq(id.to_string()))
            .filter(daily::date.ge(first.to_string()))
            .group_by(daily::date)
            .select((daily::date, sums()))
            .order(daily::date)
            .load(&mut *self.connection()?)?;
        Ok(rows.into_iter().filter_map(|(date, sums)| Some((date.parse().ok()?, to_sums(sums)))).collect())
    }

    /// Reads the sums of one day. Rows that cannot be read are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_day(&mut self, date: NaiveDate) -> Result<Vec<(DailyKey, DailySums)>, StoreError> {
        let of_day = table.filter(daily::date.eq(date.to_string()));
        let rows: Vec<Row> = of_day.select(Row::as_select()).load(&mut *self.connection()?)?;
        Ok(rows.into_iter().filter_map(Row::into_sums).collect())
    }
}
