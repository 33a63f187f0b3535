//! The check of the database file before the store opens it. A missing file is created; a file that cannot be used is
//! reported and stays unchanged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use diesel::migration::MigrationVersion;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel::sqlite::Sqlite;
use diesel_migrations::MigrationHarness;

use super::{MIGRATIONS, be_patient};

/// The length of the header of a database file, in bytes.
pub const HEADER_LENGTH: usize = 100;

/// Makes sure that the file at `path` is a whole database of Leaseway, and creates the file if it does not exist.
///
/// # Errors
/// Why the file cannot be used. The file then stays unchanged.
pub fn prepare(path: &str) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.len() == 0 => {
            Err("the file is empty and therefore not a database; remove it to start with a new one".to_owned())
        }
        Ok(found) if found.len() < HEADER_LENGTH as u64 => {
            Err(format!("the file is not a database: it has only {} bytes", found.len()))
        }
        Ok(_) => inspect(path),
        Err(error) if error.kind() == ErrorKind::NotFound => create(&behind_link(path)),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the path of the file to create: the target if `path` is a symbolic link, else `path` itself.
fn behind_link(path: &str) -> String {
    let beside = Path::new(path).parent().unwrap_or(Path::new(""));
    fs::read_link(path).map_or_else(|_| path.to_owned(), |target| beside.join(target).display().to_string())
}

/// Creates a database under another name and renames it, so that no unfinished database ever has the name `path`.
fn create(path: &str) -> Result<(), String> {
    // SQLite would take the log of a removed database for a part of the new database.
    for rest in ["-wal", "-shm", "-journal"] {
        remove_if_there(&format!("{path}{rest}")).map_err(|error| error.to_string())?;
    }
    let unfinished = format!("{path}.new");
    remove_if_there(&unfinished).map_err(|error| error.to_string())?;
    create_private(&unfinished).map_err(|error| error.to_string())?;
    let mut connection = SqliteConnection::establish(&unfinished).map_err(|error| error.to_string())?;
    connection.run_pending_migrations(MIGRATIONS).map_err(|error| error.to_string())?;
    drop(connection);
    fs::rename(&unfinished, path).map_err(|error| error.to_string())
}

/// Creates an empty file that only its owner can read, because the database holds the keys of endpoints.
fn create_private(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn remove_if_there(path: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Checks, without changing it, that a file is a whole database of this or an older Leaseway.
fn inspect(path: &str) -> Result<(), String> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| error.to_string())?;
    let read_only = format!("file:{}?mode=ro", escape(path));
    let mut connection = SqliteConnection::establish(&read_only).map_err(|error| error.to_string())?;
    be_patient(&mut connection).map_err(|error| error.to_string())?;
    let names = "SELECT name FROM sqlite_master WHERE type = 'table'";
    // A file that is cut off may already lack the tables' names.
    let cut_off = |error: diesel::result::Error| check_length(path).err().unwrap_or_else(|| error.to_string());
    let tables: Vec<TableName> = sql_query(names).load(&mut connection).map_err(cut_off)?;
    if tables.iter().all(|table| table.name != "__diesel_schema_migrations") {
        return Err("the file holds no tables of Leaseway; another program may have made it".to_owned());
    }
    check_length(path)?;
    let applied = connection.applied_migrations().map_err(|error| error.to_string())?;
    match newest_unknown(applied)? {
        Some(version) => Err(format!("the file was written by a newer version of Leaseway (schema {version})")),
        None => Ok(()),
    }
}

/// What every database begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Checks that the file has all the pages that its header counts
/// (https://www.sqlite.org/fileformat2.html#the_database_header). Pages may be missing if there is a write-ahead log,
/// because SQLite reads them from the log.
fn check_length(path: &str) -> Result<(), String> {
    if fs::metadata(format!("{path}-wal")).is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut header = [0; HEADER_LENGTH];
    if file.read_exact(&mut header).is_err() || !header.starts_with(MAGIC) {
        return Ok(()); // it is no database, which SQLite says
    }
    let number =
        |at: usize| u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let is_counted = number(24) == number(92);
    let (expected, length) = (number(28) * page_size, file.metadata().map_err(|error| error.to_string())?.len());
    match is_counted && length < expected {
        true => Err(format!("the database is cut off: the file has {length} of {expected} bytes")),
        false => Ok(()),
    }
}

/// Returns the newest schema version in `applied` that this Leaseway does not know; `None` if it knows them all.
fn newest_unknown(applied: Vec<MigrationVersion<'static>>) -> Result<Option<String>, String> {
    let known =
        diesel::migration::MigrationSource::<Sqlite>::migrations(&MIGRATIONS).map_err(|error| error.to_string())?;
    let is_known =
        |version: &MigrationVersion<'_>| known.iter().any(|migration| migration.name().version() == *version);
    Ok(applied.into_iter().filter(|version| !is_known(version)).max().map(|version| version.to_string()))
}

/// Writes a path as part of a URI (https://www.sqlite.org/uri.html).
fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

#[derive(QueryableByName)]
struct TableName {
    #[diesel(sql_type = Text)]
    name: String,
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;

    use super::*;
    use crate::store::Store;

    /// Checks that the store refuses a file for this reason and leaves the file unchanged.
    fn refused(path: &Path, reason: &str) {
        let before = fs::read(path).expect("a file");
        let url = format!("sqlite://{}", path.display());
        let error = Store::open(&url).err().expect("refused").to_string();
        assert!(error.contains(&url) && error.contains(reason), "{error}");
        assert_eq!(fs::read(path).expect("still there"), before);
    }

    fn connect(path: &Path) -> SqliteConnection {
        SqliteConnection::establish(&path.display().to_string()).expect("a connection")
    }

    #[test]
    fn what_is_no_database_of_leaseway_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("notes.txt"), "these are my notes\n".repeat(1000)).expect("written");
        refused(&path("notes.txt"), "not a database");
        fs::write(path("empty.db"), "").expect("written");
        refused(&path("empty.db"), "the file is empty");
        connect(&path("other.db")).batch_execute("CREATE TABLE endpoints (x)").expect("created");
        refused(&path("other.db"), "another program");
    }

    #[test]
    fn a_truncated_database_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let whole = folder.path().join("whole.db");
        drop(Store::open(&format!("sqlite://{}", whole.display())).expect("a new database"));
        let bytes = fs::read(&whole).expect("a file");
        let (none, cut_off) = ("file is not a database", "the database is cut off");
        for (length, reason) in [
            (1, none),
            (50, none),
            (1000, cut_off),
            (4096, cut_off),
            (bytes.len() / 2, cut_off),
            (bytes.len() - 4096, cut_off),
            (bytes.len() - 1, cut_off),
        ] {
            let path = folder.path().join(format!("{length}.db"));
            fs::write(&path, &bytes[..length]).expect("written");
            refused(&path, reason);
        }
    }

    #[test]
    fn a_database_of_a_newer_version_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("newer.db");
        drop(Store::open(&format!("sqlite://{}", path.display())).expect("a new database"));
        let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')";
        connect(&path).batch_execute(newer).expect("inserted");
        refused(&path, "newer version of Leaseway (schema 29990101000000)");
    }

    #[test]
    fn the_rest_of_a_database_that_was_removed_is_no_part_of_the_new_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, log) = (folder.path().join("a.db"), folder.path().join("a.db-wal"));
        let url = format!("sqlite://{}", path.display());
        let store = Store::open(&url).expect("a new database");
        let row = "INSERT INTO request_daily_stats VALUES ('2026-01-01', 7, 7, 0)";
        connect(&path).batch_execute(row).expect("inserted");
        let left = fs::read(&log).expect("a log");
        drop(store);
        fs::remove_file(&path).expect("removed");
        fs::write(&log, left).expect("written");
        let mut store = Store::open(&url).expect("a new database");
        assert_eq!(store.load_request_totals().expect("read").total, 0);
    }

    #[test]
    fn a_link_without_a_target_is_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink("real.db", folder.path().join("link.db")).expect("a link");
        drop(Store::open(&format!("sqlite://{}", folder.path().join("link.db").display())).expect("opened"));
        assert!(folder.path().join("link.db").is_symlink() && folder.path().join("real.db").is_file());
    }

    #[test]
    fn odd_names_are_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["a b.db", "50%.db", "what?.db", "#1.db"] {
            let url = format!("sqlite://{}", folder.path().join(name).display());
            for _ in 0..2 {
                drop(Store::open(&url).expect("opened"));
            }
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Store::open("sqlite:///nowhere/at/all.db").err().expect("refused").to_string();
        assert!(error.contains("sqlite:///nowhere/at/all.db"), "{error}");
    }

    #[test]
    fn a_start_that_was_broken_off_leaves_nothing_in_the_way() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("test.db");
        fs::write(folder.path().join("test.db.new"), "half").expect("written");
        drop(Store::open(&format!("sqlite://{}", path.display())).expect("a new database"));
        assert!(!folder.path().join("test.db.new").exists());
    }
}
