//! The database. Only this folder names diesel: one file for each table, and the folder `sqlite` for the backend.

mod endpoint_daily_stats;
mod endpoints;
mod history;
mod key_daily_stats;
mod keys;
mod refused;
mod request_daily_stats;
pub mod retention;
mod schema;
mod sqlite;

use std::fmt;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use self::sqlite::{Backend, Connection, Database, GONE, Loan, Place};
use crate::domain::history::Batch;

/// Why the database could not be opened, read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The database could not be opened at the start.
    Open {
        /// The setting `database.url`.
        url: String,
        /// What is wrong with the file, in words for the operator.
        reason: String,
    },
    /// The file of the open database was moved or removed, or a file that cannot be used is in its place; the text says
    /// which.
    /// Nothing is read or written until a database is back in its place.
    Away(String),
    /// A statement failed; the text is the message of the database.
    Query(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Open { url, reason } => write!(f, "database `{url}` cannot be used: {reason}"),
            StoreError::Away(reason) => f.write_str(reason),
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

/// An open database whose schema is up to date.
///
/// Each use first checks that the file is still in its place. While the file is not, nothing is read or written,
/// because what is written into a removed file is lost. If another whole database is in its place, the store uses that
/// database.
pub struct Store {
    url: String,
    /// `None` while the file in its place cannot be used.
    database: Option<Database>,
    /// The last use found that the database was not in its place.
    is_away: bool,
}

impl Store {
    /// Opens the database at `url` (`sqlite://FILE` or `sqlite://:memory:`), creating a file that does not exist, and
    /// brings its schema up to date.
    ///
    /// # Errors
    /// If the file cannot be opened, is not a whole database, or was written by another program or by a newer Leaseway.
    /// The file then stays unchanged.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { url: url.to_owned(), reason };
        let database = Database::open(url).map_err(failed)?;
        Ok(Self { url: url.to_owned(), database: Some(database), is_away: false })
    }

    /// Adds everything in a batch, in one transaction.
    ///
    /// # Errors
    /// If the database fails; then nothing is added.
    pub fn write_batch(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.write(|connection| add(connection, batch))
    }

    /// Checks that the database answers a query.
    ///
    /// # Errors
    /// If the database does not.
    pub fn ping(&mut self) -> Result<(), StoreError> {
        self.connection()?.batch_execute("SELECT 1").map_err(StoreError::from)
    }

    /// Moves everything that is written into the database file itself, so that a copy of this one file is whole.
    ///
    /// # Errors
    /// If the database fails.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        let done = sqlite::checkpoint(&mut *self.connection()?);
        self.remember();
        Ok(done?)
    }

    /// Runs `work` in a transaction that locks out other writers from its beginning.
    fn write<T>(&mut self, work: impl FnOnce(&mut Connection) -> QueryResult<T>) -> Result<T, StoreError> {
        let written = sqlite::write(&mut *self.connection()?, work);
        self.remember();
        Ok(written?)
    }

    fn remember(&mut self) {
        if let Some(database) = &mut self.database {
            database.remember();
        }
    }

    fn connection(&mut self) -> Result<Loan, StoreError> {
        match self.in_place() {
            Ok(database) => {
                let connection = database.connection().map_err(StoreError::Query)?;
                if std::mem::take(&mut self.is_away) {
                    log::info!("database is back url={}", self.url);
                }
                Ok(connection)
            }
            Err(reason) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    let todo = "put it back, or restart to create a new one; nothing is written until then";
                    log::error!("{reason}; {todo} url={}", self.url);
                }
                Err(StoreError::Away(reason))
            }
        }
    }

    /// Returns the database that is in its place: the open one, or the one that has replaced it.
    ///
    /// # Errors
    /// Why no database in its place can be used.
    fn in_place(&mut self) -> Result<&Database, String> {
        let database = match self.database.take().map(|mut database| (database.place(), database)) {
            Some((Place::Here, database)) => database,
            Some((Place::Gone(reason), database)) => {
                if !self.is_away {
                    make_whole(&database);
                }
                // The file may be moved back.
                self.database = Some(database);
                return Err(reason);
            }
            Some((Place::Replaced, database)) => {
                make_whole(&database);
                self.replace(database)?
            }
            Some((Place::Overwritten, database)) => self.replace(database)?,
            None => self.take_up()?,
        };
        Ok(self.database.insert(database))
    }

    /// Closes a database whose file was replaced or overwritten, and opens the file that is in its place. The old
    /// database is closed first, because the logs of both have the same name.
    fn replace(&self, old: Database) -> Result<Database, String> {
        log::warn!("the database file was replaced; endpoints stay as they are until a restart url={}", self.url);
        old.abandon();
        self.take_up()
    }

    /// Opens the file that is in the place of the database. A missing file is an error: only the start creates a
    /// database, so that the operator learns of the loss.
    fn take_up(&self) -> Result<Database, String> {
        if !sqlite::exists(&self.url) {
            return Err(GONE.to_owned());
        }
        Database::open(&self.url)
            .map_err(|reason| format!("the file in place of the database cannot be used: {reason}"))
    }
}

/// Moves the write-ahead log into a file that has lost its name, so that the file is whole wherever it is now.
fn make_whole(database: &Database) {
    let checkpoint = |mut connection: Loan| sqlite::checkpoint(&mut connection).map_err(|error| error.to_string());
    if let Err(error) = database.connection().and_then(checkpoint) {
        log::warn!("the moved database file lacks what was written last error=\"{error}\"");
    }
}

fn add(connection: &mut Connection, batch: &Batch) -> QueryResult<()> {
    endpoints::add_counters(connection, &batch.endpoints)?;
    endpoint_daily_stats::add_sums(connection, &batch.daily)?;
    key_daily_stats::add_use(connection, &batch.keys)?;
    request_daily_stats::add_counters(connection, &batch.requests)?;
    refused::add_sums(connection, &batch.refused)?;
    history::add_rows(connection, &batch.rows)
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use diesel::Connection as _;
    use diesel_migrations::MigrationHarness;
    use uuid::Uuid;

    use super::sqlite::MIGRATIONS;
    use super::*;
    use crate::domain::history::{Counters, DailyKey, DailySums};
    use crate::domain::ids::{EndpointId, ModelId};
    use crate::domain::request::ApiKind;

    #[test]
    fn migrations_go_up_and_down_and_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("test.db");
        let mut connection = Connection::establish(&path.display().to_string()).expect("a new file");
        let tables = |connection: &mut Connection| connection.batch_execute("SELECT count(*) FROM endpoints").is_ok();
        connection.run_pending_migrations(MIGRATIONS).expect("up");
        assert!(tables(&mut connection));
        connection.revert_all_migrations(MIGRATIONS).expect("down");
        assert!(!tables(&mut connection));
        connection.run_pending_migrations(MIGRATIONS).expect("up again");
        assert!(tables(&mut connection));
    }

    #[test]
    fn refusals_from_before_they_were_counted_by_minute_are_counted_from_their_rows() {
        let mut connection = Connection::establish(":memory:").expect("a database in memory");
        connection.run_pending_migrations(MIGRATIONS).expect("up");
        while connection.batch_execute("SELECT count(*) FROM refused").is_ok() {
            connection.revert_last_migration(MIGRATIONS).expect("a step back");
        }
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
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
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
