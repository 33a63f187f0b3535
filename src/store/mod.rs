//! The database. The only place that names diesel; one file per table.

pub mod endpoints;
mod schema;

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection};
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

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
    /// If the file cannot be opened or is not a database; it is then left as it is.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { url: url.to_owned(), reason };
        let path = url.strip_prefix(PREFIX).unwrap_or(url);
        if path != MEMORY {
            create_private(path).map_err(|error| failed(error.to_string()))?;
        }
        // Opened once outside the pool, which would try again for half a minute before it says why.
        let mut first = SqliteConnection::establish(path).map_err(|error| failed(error.to_string()))?;
        if is_foreign(&mut first).map_err(|error| failed(error.to_string()))? {
            return Err(failed("it holds the tables of another program".to_owned()));
        }
        prepare(&mut first).map_err(|error| failed(error.to_string()))?;
        // One connection, kept for good: there is one writer, and each connection to ":memory:" is a database of its own.
        let pool = Pool::builder()
            .max_size(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_on_check_out(false)
            .connection_customizer(Box::new(Prepare))
            .build(ConnectionManager::new(path))
            .map_err(|error| failed(error.to_string()))?;
        let store = Self { pool };
        let mut connection = store.connection().map_err(|error| failed(error.to_string()))?;
        connection.run_pending_migrations(MIGRATIONS).map_err(|error| failed(error.to_string()))?;
        drop(connection);
        Ok(store)
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// If it gives none.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.connection()?.batch_execute("SELECT 1").map_err(StoreError::from)
    }

    /// Moves everything from the write-ahead log into the database file, so that a copy of the file is whole.
    ///
    /// # Errors
    /// If somebody else holds the database.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection()?.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").map_err(StoreError::from)
    }

    fn connection(&self) -> Result<PooledConnection<ConnectionManager<SqliteConnection>>, StoreError> {
        self.pool.get().map_err(|error| StoreError::Query(error.to_string()))
    }
}

/// Creates a file that is not there, readable by its owner only: it holds the keys of endpoints.
fn create_private(path: &str) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Tells whether a database has tables, but none of Leaseway's; changes nothing.
fn is_foreign(connection: &mut SqliteConnection) -> QueryResult<bool> {
    let names: Vec<TableName> = sql_query("SELECT name FROM sqlite_master WHERE type = 'table'").load(connection)?;
    Ok(!names.is_empty() && names.iter().all(|table| table.name != "__diesel_schema_migrations"))
}

#[derive(QueryableByName)]
struct TableName {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Sets up a connection; the statements are separate because the first guards the others.
fn prepare(connection: &mut SqliteConnection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA busy_timeout = 5000")?;
    connection.batch_execute("PRAGMA journal_mode = WAL")?;
    connection.batch_execute("PRAGMA synchronous = NORMAL")
}

#[derive(Debug)]
struct Prepare;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Prepare {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        prepare(connection).map_err(diesel::r2d2::Error::QueryError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_file_that_is_no_database_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notes.txt");
        let text = "these are my notes\n".repeat(1000);
        std::fs::write(&path, &text).expect("a writable folder");
        let url = format!("sqlite://{}", path.display());
        let error = Store::open(&url).err().expect("refused").to_string();
        assert!(error.contains(&url) && error.contains("not a database"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), text);
    }

    #[test]
    fn a_database_of_another_program_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("other.db");
        let mut other = SqliteConnection::establish(&path.display().to_string()).expect("a new file");
        other.batch_execute("CREATE TABLE endpoints (x)").expect("created");
        drop(other);
        let before = std::fs::read(&path).expect("a file");
        let error = Store::open(&format!("sqlite://{}", path.display())).err().expect("refused").to_string();
        assert!(error.contains("another program"), "{error}");
        assert_eq!(std::fs::read(&path).expect("still there"), before);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Store::open("sqlite:///nowhere/at/all.db").err().expect("refused").to_string();
        assert!(error.contains("sqlite:///nowhere/at/all.db"), "{error}");
    }
}
