//! SQLite, the backend: the only file, with `sqlite/file.rs`, that names it. The files of the tables say [`Connection`] and
//! [`Backend`], so that their typed queries run on whatever these are.

mod file;
mod place;

use std::path::Path;

use diesel::Connection as _;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection};
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

pub use self::place::Place;
use self::place::Placed;

/// The schema.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// What every query runs on.
pub type Connection = SqliteConnection;

/// What every query is written for.
pub type Backend = Sqlite;

/// A connection on loan.
pub type Loan = PooledConnection<ConnectionManager<Connection>>;

const PREFIX: &str = "sqlite://";
const MEMORY: &str = ":memory:";

/// An open database, its schema up to date.
pub struct Database {
    pool: Pool<ConnectionManager<Connection>>,
    /// `None` in memory.
    file: Option<Placed>,
}

impl Database {
    /// Opens the database at `url`. A file that does not exist is created.
    ///
    /// # Errors
    /// Why it cannot be used. The file is then as it was.
    pub fn open(url: &str) -> Result<Self, String> {
        let path = path_of(url);
        if path != MEMORY {
            file::prepare(path)?;
        }
        // Set up once outside the pool, which would try again for half a minute before it says why.
        let mut first = Connection::establish(path).map_err(|error| error.to_string())?;
        set_up(&mut first).map_err(|error| error.to_string())?;
        // One connection, kept for good: there is one writer, and each connection to ":memory:" is a database of its own.
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
        let file = (path != MEMORY).then(|| Placed::find(path)).transpose()?;
        Ok(Self { pool, file })
    }

    /// Lends the connection.
    ///
    /// # Errors
    /// If none can be had.
    pub fn connection(&self) -> Result<Loan, String> {
        self.pool.get().map_err(|error| error.to_string())
    }

    /// Tells where the open file is now.
    pub fn place(&self) -> Place {
        self.file.as_ref().map_or(Place::Here, Placed::place)
    }

    /// Closes a database whose file another one has taken the place of, so that what is left of it beside that place is not
    /// taken for a part of the other.
    pub fn abandon(self) {
        let Self { pool, file } = self;
        drop(pool);
        if let Some(file) = file {
            file.remove_log();
        }
    }
}

/// Tells whether there is a file at `url`.
pub fn exists(url: &str) -> bool {
    Path::new(path_of(url)).exists()
}

fn path_of(url: &str) -> &str {
    url.strip_prefix(PREFIX).unwrap_or(url)
}

/// Runs `work` in a transaction that is the only writing one from its beginning.
///
/// # Errors
/// The first failure in `work`, or that of the transaction; then nothing is changed.
pub fn write<T>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Connection) -> QueryResult<T>,
) -> Result<T, diesel::result::Error> {
    let mut cause = None;
    let written = connection.immediate_transaction(|connection| {
        work(connection).map_err(|error| {
            // A rollback that fails, too, would hide why it was tried.
            cause = Some(error);
            diesel::result::Error::RollbackTransaction
        })
    });
    written.map_err(|error: diesel::result::Error| cause.unwrap_or(error))
}

/// Moves what nobody else is reading from the write-ahead log into the database file, so that a copy of the file is whole.
///
/// # Errors
/// If the database fails.
pub fn checkpoint(connection: &mut Connection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")
}

/// Sets up a connection; the statements are separate because the first guards the others.
fn set_up(connection: &mut Connection) -> QueryResult<()> {
    be_patient(connection)?;
    connection.batch_execute("PRAGMA journal_mode = WAL")?;
    connection.batch_execute("PRAGMA synchronous = NORMAL")?;
    // What a long batch has made of the write-ahead log is given back.
    connection.batch_execute("PRAGMA journal_size_limit = 8388608")
}

/// Makes a connection wait up to 5 s for another process's lock.
fn be_patient(connection: &mut Connection) -> QueryResult<()> {
    connection.batch_execute("PRAGMA busy_timeout = 5000")
}

#[derive(Debug)]
struct SetUp;

impl CustomizeConnection<Connection, diesel::r2d2::Error> for SetUp {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), diesel::r2d2::Error> {
        set_up(connection).map_err(diesel::r2d2::Error::QueryError)
    }
}
