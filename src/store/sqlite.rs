//! SQLite, the backend. Only this file and the folder `sqlite` name it. The files of the tables use the aliases
//! [`Connection`] and [`Backend`], so that another backend changes only the aliases.

mod file;
mod place;

use std::path::Path;

use diesel::Connection as _;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection};
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use self::place::Placed;
pub use self::place::{GONE, Place};

/// The statements that create the schema and bring an older one up to date.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The type of connection on which queries run.
pub type Connection = SqliteConnection;

/// The type of database for which queries are written.
pub type Backend = Sqlite;

/// The connection, lent by the pool until it is dropped.
pub type Loan = PooledConnection<ConnectionManager<Connection>>;

const PREFIX: &str = "sqlite://";
const MEMORY: &str = ":memory:";

/// An open database whose schema is up to date.
pub struct Database {
    /// Stands before `file`, so that the connections are closed first.
    pool: Pool<ConnectionManager<Connection>>,
    /// `None` for a database in memory.
    file: Option<Placed>,
}

impl Database {
    /// Opens the database at `url`. A file that does not exist is created.
    ///
    /// # Errors
    /// Why the database cannot be used. The file then stays unchanged.
    pub fn open(url: &str) -> Result<Self, String> {
        let path = path_of(url);
        if path != MEMORY {
            file::prepare(path)?;
        }
        // The first connection is made outside the pool, because the pool retries for half a minute before it reports
        // an error.
        let mut first = Connection::establish(path).map_err(|error| error.to_string())?;
        set_up(&mut first).map_err(|error| error.to_string())?;
        // The pool has one connection and never closes it: there is one writer, and each connection to ":memory:" opens
        // a separate database.
        let pool = Pool::builder()
            .max_size(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_on_check_out(false)
            .connection_customizer(Box::new(SetUp))
            .build(ConnectionManager::new(path))
            .map_err(|error| error.to_string())?;
        let mut connection = pool.get().map_err(|error| error.to_string())?;
        connection.run_pending_migrations(MIGRATIONS).map_err(|error| error.to_string())?;
        drop((connection, first));
        let file = (path != MEMORY).then(|| Placed::find(path)).transpose().map_err(|error| error.to_string())?;
        Ok(Self { pool, file })
    }

    /// Lends the connection.
    ///
    /// # Errors
    /// If the pool has no connection to lend.
    pub fn connection(&self) -> Result<Loan, String> {
        self.pool.get().map_err(|error| error.to_string())
    }

    /// Tells whether the open file is still in its place; a database in memory always is.
    pub fn place(&mut self) -> Place {
        self.file.as_mut().map_or(Place::Here, Placed::place)
    }

    /// Looks at the content of the file after it was changed here, so that the next look knows the change.
    pub fn remember(&mut self) {
        if let Some(file) = &mut self.file {
            file.look();
        }
    }

    /// Closes a database whose file was replaced or overwritten, and removes its write-ahead log, so that SQLite does
    /// not take the log for a part of the new file.
    pub fn abandon(self) {
        let Self { pool, file } = self;
        if let Some(file) = &file {
            file.empty_log();
        }
        drop(pool);
        if let Some(file) = file {
            file.remove_log();
        }
    }
}

/// Tells whether the file that `url` names exists.
pub fn exists(url: &str) -> bool {
    Path::new(path_of(url)).exists()
}

fn path_of(url: &str) -> &str {
    url.strip_prefix(PREFIX).unwrap_or(url)
}

/// Runs `work` in a transaction that locks out other writers from its beginning.
///
/// # Errors
/// The failure of `work`, or that of the transaction; then nothing is changed.
pub fn write<T>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Connection) -> QueryResult<T>,
) -> Result<T, diesel::result::Error> {
    let mut cause = None;
    let written = connection.immediate_transaction(|connection| {
        work(connection).map_err(|error| {
            // The cause is kept, because a rollback that also fails would hide it.
            cause = Some(error);
            diesel::result::Error::RollbackTransaction
        })
    });
    written.map_err(|error: diesel::result::Error| cause.unwrap_or(error))
}

/// Moves the write-ahead log into the database file, so that a copy of the file is whole. Parts of the log that another
/// process is reading stay in the log.
///
/// # Errors
/// If the database fails.
pub fn checkpoint(connection: &mut Connection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")
}

/// Sets up a connection. The statements run one by one, because the first sets how long the others wait for a lock.
fn set_up(connection: &mut Connection) -> QueryResult<()> {
    be_patient(connection)?;
    connection.batch_execute("PRAGMA journal_mode = WAL")?;
    connection.batch_execute("PRAGMA synchronous = NORMAL")?;
    // SQLite cuts a write-ahead log that a long batch has made longer back to this many bytes.
    connection.batch_execute("PRAGMA journal_size_limit = 8388608")
}

/// Makes a connection wait up to 5 s for another process's lock.
fn be_patient(connection: &mut Connection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA busy_timeout = 5000")
}

/// Sets up each connection that the pool opens.
#[derive(Debug)]
struct SetUp;

impl CustomizeConnection<Connection, diesel::r2d2::Error> for SetUp {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), diesel::r2d2::Error> {
        set_up(connection).map_err(diesel::r2d2::Error::QueryError)
    }
}
