//! The table `key_daily_stats`: requests and tokens by key, model, day and API.

use chrono::NaiveDate;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::upsert::excluded;
use uuid::Uuid;

use super::schema::key_daily_stats::{self as daily, table};
use super::{Connection, Store, StoreError};
use crate::domain::history::Counters;
use crate::domain::ids::{KeyId, ModelId};
use crate::domain::key_use::{KeyUse, UseKey};

/// How many rows one statement adds. Databases limit the number of values in a statement.
const ADDED_AT_ONCE: usize = 100;

#[derive(Insertable)]
#[diesel(table_name = daily)]
#[diesel(treat_none_as_default_value = false)]
struct Row {
    key_id: String,
    model_id: String,
    date: String,
    api_kind: String,
    total_requests: i64,
    successful_requests: i64,
    failed_requests: i64,
    refused_requests: i64,
    input_tokens: i64,
    output_tokens: i64,
}

impl From<(&UseKey, &KeyUse)> for Row {
    fn from((key, used): (&UseKey, &KeyUse)) -> Self {
        Self {
            key_id: key.key.to_string(),
            model_id: key.model.as_str().to_owned(),
            date: key.date.to_string(),
            api_kind: key.api_kind.as_str().to_owned(),
            total_requests: used.requests.total,
            successful_requests: used.requests.successful,
            failed_requests: used.requests.failed,
            refused_requests: used.refused,
            input_tokens: used.input_tokens,
            output_tokens: used.output_tokens,
        }
    }
}

/// Adds to the use of keys.
pub(super) fn add_use<'a>(
    connection: &mut Connection,
    used: impl IntoIterator<Item = (&'a UseKey, &'a KeyUse)>,
) -> QueryResult<()> {
    let rows: Vec<Row> = used.into_iter().map(Row::from).collect();
    for rows in rows.chunks(ADDED_AT_ONCE) {
        diesel::insert_into(table)
            .values(rows)
            .on_conflict((daily::key_id, daily::model_id, daily::date, daily::api_kind))
            .do_update()
            .set((
                daily::total_requests.eq(daily::total_requests + excluded(daily::total_requests)),
                daily::successful_requests.eq(daily::successful_requests + excluded(daily::successful_requests)),
                daily::failed_requests.eq(daily::failed_requests + excluded(daily::failed_requests)),
                daily::refused_requests.eq(daily::refused_requests + excluded(daily::refused_requests)),
                daily::input_tokens.eq(daily::input_tokens + excluded(daily::input_tokens)),
                daily::output_tokens.eq(daily::output_tokens + excluded(daily::output_tokens)),
            ))
            .execute(connection)?;
    }
    Ok(())
}

impl Store {
    /// Returns the tokens that each key has used on a day, of prompts and answers.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_tokens_used(&mut self, date: NaiveDate) -> Result<Vec<(KeyId, u64)>, StoreError> {
        let tokens = sql::<BigInt>("CAST(SUM(input_tokens + output_tokens) AS BIGINT)");
        let rows: Vec<(String, i64)> = table
            .filter(daily::date.eq(date.to_string()))
            .group_by(daily::key_id)
            .select((daily::key_id, tokens))
            .load(&mut *self.connection()?)?;
        let read = |(id, tokens): (String, i64)| Some((KeyId(Uuid::parse_str(&id).ok()?), tokens.unsigned_abs()));
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Returns the use of a key by day and model, from `first` on, oldest day first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_key_use(
        &mut self,
        key: KeyId,
        first: NaiveDate,
    ) -> Result<Vec<(NaiveDate, ModelId, KeyUse)>, StoreError> {
        type Sums = (i64, i64, i64, i64, i64, i64);
        let sum = |column: &str| sql::<BigInt>(&format!("CAST(SUM({column}) AS BIGINT)"));
        let rows: Vec<(String, String, Sums)> = table
            .filter(daily::key_id.eq(key.to_string()))
            .filter(daily::date.ge(first.to_string()))
            .group_by((daily::date, daily::model_id))
            .order((daily::date, daily::model_id))
            .select((
                daily::date,
                daily::model_id,
                (
                    sum("total_requests"),
                    sum("successful_requests"),
                    sum("failed_requests"),
                    sum("refused_requests"),
                    sum("input_tokens"),
                    sum("output_tokens"),
                ),
            ))
            .load(&mut *self.connection()?)?;
        let read = |(date, model, (total, successful, failed, refused, input_tokens, output_tokens)): (
            String,
            String,
            Sums,
        )| {
            let requests = Counters { total, successful, failed };
            let used = KeyUse { requests, refused, input_tokens, output_tokens };
            Some((date.parse().ok()?, ModelId::from(model.as_str()), used))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }
}
