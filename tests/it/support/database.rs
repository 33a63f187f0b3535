//! A database file as another program sees it.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

/// An open database.
pub struct Database(SqliteConnection);

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Words {
    #[diesel(sql_type = Text)]
    words: String,
}

/// A lease that has ended, as the history has it.
#[derive(Debug, QueryableByName)]
pub struct LeaseRow {
    #[diesel(sql_type = Text)]
    pub endpoint_id: String,
    #[diesel(sql_type = Text)]
    pub request_id: String,
    #[diesel(sql_type = Text)]
    pub status: String,
    /// Empty if there is none.
    #[diesel(sql_type = Text)]
    pub error: String,
}

impl Database {
    pub fn open(path: &Path) -> Self {
        let mut connection = SqliteConnection::establish(&path.display().to_string()).expect("a database");
        connection.batch_execute("PRAGMA busy_timeout = 10000").expect("an option");
        Self(connection)
    }

    /// Executes a statement.
    pub fn execute(&mut self, sql: &str) {
        self.0.batch_execute(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// Returns the one number that a query finds; `query` stands without its `SELECT`.
    pub fn number(&mut self, sql: &str) -> i64 {
        let found: Number = sql_query(format!("SELECT {sql} AS number")).get_result(&mut self.0).expect("a number");
        found.number
    }

    /// Returns every lease of the history.
    pub fn leases(&mut self) -> Vec<LeaseRow> {
        let columns = "endpoint_id, request_id, status, coalesce(error, '') AS error";
        let query = format!("SELECT {columns} FROM request_history WHERE endpoint_id IS NOT NULL");
        sql_query(query).load(&mut self.0).expect("rows")
    }

    /// Checks that the file is intact and that counters, daily rows and history agree.
    pub fn check(&mut self) {
        let sound: Words =
            sql_query("SELECT integrity_check AS words FROM pragma_integrity_check").get_result(&mut self.0).expect("");
        assert_eq!(sound.words, "ok");
        let endpoints = |column: &str| format!("(SELECT coalesce(sum({column}), 0) FROM endpoints)");
        let daily = |column: &str| format!("(SELECT coalesce(sum({column}), 0) FROM endpoint_daily_stats)");
        let requests = |column: &str| format!("(SELECT coalesce(sum({column}), 0) FROM request_daily_stats)");
        let history = |filter: &str| format!("(SELECT count(*) FROM request_history WHERE {filter})");
        for (column, status) in [
            ("total_requests", "1"),
            ("successful_requests", "status='succeeded'"),
            ("failed_requests", "status='failed'"),
        ] {
            let leases = self.number(&history(&format!("endpoint_id IS NOT NULL AND {status}")));
            assert_eq!(self.number(&endpoints(column)), leases, "{column} of endpoints");
            assert_eq!(self.number(&daily(column)), leases, "{column} of days");
        }
        let tokens = "(SELECT coalesce(sum(output_tokens), 0) FROM request_history)";
        assert_eq!(self.number(&daily("total_output_tokens")), self.number(tokens));
        // Every refused request counts in `refused`, and few have a row.
        for (column, filter) in [
            ("total_requests", "status<>'refused'"),
            ("successful_requests", "status='succeeded'"),
            ("failed_requests", "status='failed'"),
        ] {
            let mut finals = self.number(&history(&format!("is_final AND {filter}")));
            if column != "successful_requests" {
                finals += self.number("(SELECT coalesce(sum(requests), 0) FROM refused)");
            }
            assert_eq!(self.number(&requests(column)), finals, "{column} by their final answer");
        }
        let rows =
            "(SELECT count(*) AS n FROM request_history WHERE status='refused' GROUP BY created_at / 1000, error)";
        assert!(self.number(&format!("(SELECT coalesce(max(n), 0) FROM {rows})")) <= 1, "rows of a second and code");
    }
}
