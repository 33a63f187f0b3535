//! The database. The only place that names diesel; one file per table.

mod endpoint_daily_stats;
mod endpoints;
mod file;
mod history;
mod refused;
mod request_daily_stats;
pub mod retention;
mod schema;

use std::fmt;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::domain::history::Batch;

pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

const PREFIX: &str = "sqlite://";
const MEMORY: &str = ":memory:";

/// Why the database could not be opened or did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    Open { url: String, reason: String },
    Query(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Open { url, reason } => write!(f, "database `{url}` cannot be used: {reason}"),
            StoreError::Query(reason) => write!(f, "database query failed: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        StoreError::Query(error.to_string())
    }
}

/// An open database, its schema up to date; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool<ConnectionManager<SqliteConnection>>,
}

impl Store {
    /// Opens the database at `url` (`sqlite://FILE` or `sqlite://:memory:`), creating a file that does not exist, and
    /// brings its schema up to date.
    ///
    /// # Errors
    /// If the file cannot be opened, is not a whole database, or that of another program or of a newer Leaseway; it is then
    /// left as it is.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { url: url.to_owned(), reason };
        let path = url.strip_prefix(PREFIX).unwrap_or(url);
        if path != MEMORY {
            file::prepare(path).map_err(failed)?;
        }
        // Set up once outside the pool, which would try again for half a minute before it says why.
        let mut first = SqliteConnection::establish(path).map_err(|error| failed(error.to_string()))?;
        set_up(&mut first).map_err(|error| failed(error.to_string()))?;
        // One connection, kept for good: there is one writer, and each connection to ":memory:" is a database of its own.
        let pool = Pool::builder()
            .max_size(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_on_check_out(false)
            .connection_customizer(Box::new(SetUp))
            .build(ConnectionManager::new(path))
            .map_err(|error| failed(error.to_string()))?;
        let store = Self { pool };
        let mut connection = store.connection().map_err(|error| failed(error.to_string()))?;
        connection.run_pending_migrations(MIGRATIONS).map_err(|error| failed(error.to_string()))?;
        drop((connection, first));
        Ok(store)
    }

    /// Adds everything in a batch, in one transaction.
    ///
    /// # Errors
    /// If the database fails; then nothing is added.
    pub fn write_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut cause = None;
        let written = self.connection()?.immediate_transaction(|connection| {
            add(connection, batch).inspect_err(|error| cause = Some(StoreError::Query(error.to_string())))
        });
        // A rollback that fails, too, would hide why it was tried.
        written.map_err(|error: diesel::result::Error| cause.unwrap_or_else(|| error.into()))
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// If it gives none.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.connection()?.batch_execute("SELECT 1").map_err(StoreError::from)
    }

    /// Moves what nobody else is reading from the write-ahead log into the database file, so that a copy of the file is whole.
    ///
    /// # Errors
    /// If the database fails.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection()?.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").map_err(StoreError::from)
    }

    fn connection(&self) -> Result<PooledConnection<ConnectionManager<SqliteConnection>>, StoreError> {
        self.pool.get().map_err(|error| StoreError::Query(error.to_string()))
    }
}

fn add(connection: &mut SqliteConnection, batch: &Batch) -> QueryResult<()> {
    endpoints::add_counters(connection, &batch.endpoints)?;
    endpoint_daily_stats::add_sums(connection, &batch.daily)?;
    request_daily_stats::add_counters(connection, &batch.requests)?;
    refused::add_sums(connection, &batch.refused)?;
    history::add_rows(connection, &batch.rows)
}

/// Sets up a connection; the statements are separate because the first guards the others.
fn set_up(connection: &mut SqliteConnection) -> QueryResult<()> {
    be_patient(connection)?;
    connection.batch_execute("PRAGMA journal_mode = WAL")?;
    connection.batch_execute("PRAGMA synchronous = NORMAL")?;
    // What a long batch has made of the write-ahead log is given back.
    connection.batch_execute("PRAGMA journal_size_limit = 8388608")
}

/// Has a connection wait for somebody else's lock.
fn be_patient(connection: &mut SqliteConnection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA busy_timeout = 5000")
}

#[derive(Debug)]
struct SetUp;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for SetUp {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        set_up(connection).map_err(diesel::r2d2::Error::QueryError)
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use uuid::Uuid;

    use super::*;
    use crate::domain::history::{Counters, DailyKey, DailySums};
    use crate::domain::ids::{EndpointId, ModelId};
    use crate::domain::request::ApiKind;

    #[test]
    fn migrations_go_up_and_down_and_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("test.db");
        let mut connection = SqliteConnection::establish(&path.display().to_string()).expect("a new file");
        let tables =
            |connection: &mut SqliteConnection| connection.batch_execute("SELECT count(*) FROM endpoints").is_ok();
        connection.run_pending_migrations(MIGRATIONS).expect("up");
        assert!(tables(&mut connection));
        connection.revert_all_migrations(MIGRATIONS).expect("down");
        assert!(!tables(&mut connection));
        connection.run_pending_migrations(MIGRATIONS).expect("up again");
        assert!(tables(&mut connection));
    }

    #[test]
    fn refusals_from_before_they_were_counted_by_minute_are_counted_from_their_rows() {
        let mut connection = SqliteConnection::establish(":memory:").expect("a database in memory");
        connection.run_pending_migrations(MIGRATIONS).expect("up");
        connection.revert_last_migration(MIGRATIONS).expect("before there was the table");
        for (millis, status, error) in [
            (59_999, "refused", "'draining'"),
            (60_000, "refused", "'draining'"),
            (61_000, "refused", "'draining'"),
            (61_000, "abandoned", "NULL"),
        ] {
            let row = format!("('r', 1, {millis}, 'embeddings', 'm', 'c', '{status}', 1, 0, {error})");
            let columns =
                "request_id, attempt, created_at, api_kind, model_id, client, status, is_final, wait_ms, error";
            connection.batch_execute(&format!("INSERT INTO request_history ({columns}) VALUES {row}")).expect("a row");
        }
        connection.run_pending_migrations(MIGRATIONS).expect("up again");
        let mut minutes = refused::load_minutes(&mut connection, 0, 10).expect("read");
        minutes.sort_unstable();
        assert_eq!(minutes, [(0, 1), (1, 2)]);
    }

    #[test]
    fn a_batch_of_any_size_is_added_to_what_was_there() {
        let store = Store::open("sqlite://:memory:").expect("a database in memory");
        let (date, endpoint) = (NaiveDate::default(), EndpointId(Uuid::new_v4()));
        let leases = Counters { total: 2, successful: 1, failed: 1 };
        let sums = DailySums { leases, output_tokens: 7, duration_ms: 20, measured: 1 };
        let key = |model: usize| DailyKey {
            endpoint,
            model: ModelId::from(format!("m{model}").as_str()),
            api_kind: ApiKind::Responses,
            date,
        };
        let batch = Batch {
            daily: (0..501).map(|model| (key(model), sums)).collect(),
            requests: [(date, leases)].into_iter().collect(),
            ..Batch::default()
        };
        for _ in 0..2 {
            store.write_batch(&batch).expect("written");
        }
        let twice = Counters { total: 4, successful: 2, failed: 2 };
        assert_eq!(store.load_request_totals().expect("read"), twice);
        let models = store.load_model_sums(Some(endpoint)).expect("read");
        assert_eq!(models.len(), 501);
        let expected = DailySums { leases: twice, output_tokens: 14, duration_ms: 40, measured: 2 };
        assert!(models.iter().all(|(_, sums)| *sums == expected));
    }
}
