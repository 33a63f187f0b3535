//! The table `request_history`: one row for each lease, and one for each request that got no lease. Of refused requests
//! only some have a row. Bodies are never stored.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use diesel::dsl::{SqlTypeOf, count_star};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};

use super::schema::request_history;
use super::{Backend, Connection, Store, StoreError, refused};
use crate::domain::history::{HistoryEnd, HistoryRow};
use crate::domain::ids::ClientId;
use crate::domain::request::{EndedLease, LeaseRequest, Outcome, TokenCount, UnservedRequest};
use crate::domain::timeline::{MINUTES, Minute};

/// How many rows one statement adds. SQLite keeps the statement prepared, so its number of rows must not vary.
const ADDED_AT_ONCE: usize = 50;

/// A minute in milliseconds, the unit of `created_at`.
pub(super) const MINUTE_MS: i64 = 60_000;

/// Makes the struct of a row and the statement that adds rows from one list of columns. The types of the columns are
/// the schema's.
///
/// diesel's own batch insert visits each column of each row four times, which takes as long as SQLite's work.
macro_rules! rows {
    ($($column:ident: $type:ty),+ $(,)?) => {
        struct Row<'a> {
            $($column: $type,)+
        }

        struct AddRows<'a, const ROWS: usize>(&'a [Row<'a>; ROWS]);

        impl<const ROWS: usize> QueryFragment<Backend> for AddRows<'_, ROWS> {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Backend>) -> QueryResult<()> {
                out.push_sql("INSERT INTO request_history (");
                out.push_sql(concat!($(stringify!($column), ", "),+).trim_end_matches(", "));
                for (place, row) in self.0.iter().enumerate() {
                    out.push_sql(if place == 0 { ") VALUES (" } else { "), (" });
                    let mut between = "";
                    $(
                        out.push_sql(std::mem::replace(&mut between, ", "));
                        out.push_bind_param::<SqlTypeOf<request_history::$column>, _>(&row.$column)?;
                    )+
                }
                out.push_sql(")");
                Ok(())
            }
        }
    };
}

rows! {
    request_id: &'a str,
    attempt: i32,
    created_at: i64,
    api_kind: &'static str,
    model_id: &'a str,
    endpoint_id: Option<String>,
    client: String,
    status: &'static str,
    is_final: bool,
    duration_ms: Option<i64>,
    first_token_ms: Option<i64>,
    wait_ms: i64,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    error: Option<String>,
}

impl<const ROWS: usize> QueryId for AddRows<'_, ROWS> {
    type QueryId = AddRows<'static, ROWS>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const ROWS: usize> RunQueryDsl<Connection> for AddRows<'_, ROWS> {}

impl<'a> From<&'a HistoryRow> for Row<'a> {
    fn from(row: &'a HistoryRow) -> Self {
        match &row.end {
            HistoryEnd::Lease(ended) => Row::of_lease(row, ended),
            HistoryEnd::Unserved(unserved) => Row::of_unserved(row, unserved),
        }
    }
}

impl<'a> Row<'a> {
    /// Returns a row with the values that every row has; all other values are those of a request that got no lease.
    fn new(row: &HistoryRow, request: &'a LeaseRequest, status: &'static str, waited: Duration) -> Self {
        Self {
            request_id: request.id.as_str(),
            attempt: i32::try_from(request.attempt()).unwrap_or(i32::MAX),
            created_at: row.created_at.timestamp_millis(),
            api_kind: request.api_kind.as_str(),
            model_id: request.model.as_str(),
            endpoint_id: None,
            client: text_of(request),
            status,
            is_final: true,
            duration_ms: None,
            first_token_ms: None,
            wait_ms: millis(waited),
            input_tokens: None,
            output_tokens: None,
            error: None,
        }
    }

    fn of_lease(row: &HistoryRow, ended: &'a EndedLease) -> Self {
        let EndedLease { request, target, outcome, is_final, duration, first_token, waited, .. } = ended;
        let (status, tokens, error) = match outcome {
            Outcome::Succeeded { tokens } => ("succeeded", *tokens, None),
            Outcome::Failed(failure) => ("failed", None, Some(failure.to_string())),
            Outcome::Abandoned => ("abandoned", None, None),
        };
        Self {
            endpoint_id: Some(target.id.to_string()),
            is_final: *is_final,
            duration_ms: Some(millis(*duration)),
            first_token_ms: first_token.map(millis),
            input_tokens: tokens.and_then(|tokens| tokens.input).map(count),
            output_tokens: tokens.map(|TokenCount { output, .. }| count(output)),
            error,
            ..Self::new(row, request, status, *waited)
        }
    }

    fn of_unserved(row: &HistoryRow, unserved: &'a UnservedRequest) -> Self {
        let UnservedRequest { request, refusal, waited } = unserved;
        match refusal {
            Some(refusal) => {
                let error = Some(refusal.code().to_owned());
                Self { error, ..Self::new(row, request, "refused", *waited) }
            }
            None => Self::new(row, request, "abandoned", *waited),
        }
    }
}

/// Returns the client of a request as text; a key has its name. The capacity fits an IPv4 address, which most clients
/// have: a text that must grow costs a thirtieth of the time for the whole row.
fn text_of(LeaseRequest { client, key_name, .. }: &LeaseRequest) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    let key_name = key_name.as_deref().unwrap_or_default();
    let written = match client {
        ClientId::Address(_) | ClientId::Named(_) => write!(text, "{client}"),
        ClientId::Key(_) => write!(text, "{key_name}"),
        ClientId::NamedByKey(_, name) => write!(text, "{key_name}/{}", String::from_utf8_lossy(name)),
    };
    written.expect("a text takes everything");
    text
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// Adds rows in the given order.
pub(super) fn add_rows(connection: &mut Connection, rows: &[HistoryRow]) -> QueryResult<()> {
    let (chunks, rest) = rows.as_chunks::<ADDED_AT_ONCE>();
    for chunk in chunks {
        AddRows(&chunk.each_ref().map(Row::from)).execute(connection)?;
    }
    for row in rest {
        AddRows(&[Row::from(row)]).execute(connection)?;
    }
    Ok(())
}

impl Store {
    /// Counts the requests that ended in each of the [`MINUTES`] minutes up to and with `current`, in minutes since
    /// 1970-01-01T00:00Z. Minutes in which no request ended are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_timeline(&mut self, current: i64) -> Result<Vec<Minute>, StoreError> {
        let mut connection = self.connection()?;
        let first = current - MINUTES as i64 + 1;
        let refused: BTreeMap<i64, i64> = refused::load_minutes(&mut connection, first, current)?.into_iter().collect();
        let mut minutes = Vec::new();
        for minute in first..=current {
            let counts: Vec<(String, i64)> = request_history::table
                .filter(request_history::created_at.ge(minute * MINUTE_MS))
                .filter(request_history::created_at.lt((minute + 1) * MINUTE_MS))
                .filter(request_history::is_final)
                .group_by(request_history::status)
                .select((request_history::status, count_star()))
                .load(&mut *connection)?;
            let error = refused.get(&minute).copied().unwrap_or_default().unsigned_abs();
            let mut entry = Minute { minute, success: 0, error };
            for (status, requests) in counts {
                match status.as_str() {
                    "succeeded" => entry.success += requests.unsigned_abs(),
                    "failed" => entry.error += requests.unsigned_abs(),
                    // Refused requests are counted whether they have a row or not; abandoned ones are not shown.
                    _ => {}
                }
            }
            minutes.extend((entry.success + entry.error > 0).then_some(entry));
        }
        Ok(minutes)
    }
}
