//! Whether the file of an open database is still in its place. Other programs can move, remove or replace the file.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

/// What now has the name under which the database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file that is open.
    Here,
    /// No file, or one that cannot be looked at.
    Gone,
    /// Another file than the open one.
    Replaced,
}

/// Device and inode, which identify a file on this machine whatever its name is.
type FileId = (u64, u64);

/// The file of an open database and the name under which it was opened.
pub struct Placed {
    path: String,
    id: FileId,
    /// Name and identity of the write-ahead log; `None` if there was none when the database was opened.
    log: Option<(String, FileId)>,
}

impl Placed {
    /// Remembers which file has just been opened under the name `path`.
    ///
    /// # Errors
    /// If no file has the name.
    pub fn find(path: &str) -> Result<Self, String> {
        let found = fs::metadata(path).map_err(|error| error.to_string())?;
        // SQLite keeps the log beside the file itself, not beside a link to the file.
        let log = fs::canonicalize(path).ok().map(|real| format!("{}-wal", real.display()));
        let log = log.and_then(|log| fs::metadata(&log).ok().map(|found| (log, id_of(&found))));
        Ok(Self { path: path.to_owned(), id: id_of(&found), log })
    }

    /// Tells what has the name now.
    pub fn place(&self) -> Place {
        match fs::metadata(&self.path) {
            Ok(found) if id_of(&found) == self.id => Place::Here,
            Ok(_) => Place::Replaced,
            Err(_) => Place::Gone,
        }
    }

    /// Removes the write-ahead log of a file that is closed and replaced, so that SQLite does not take the log for a
    /// part of the new file. A log that came with the new file stays.
    pub fn remove_log(self) {
        let Some((log, id)) = self.log else { return };
        if fs::metadata(&log).is_ok_and(|found| id_of(&found) == id)
            && let Err(error) = fs::remove_file(&log)
        {
            log::warn!("log of the replaced database not removed file={log} error=\"{error}\"");
        }
    }
}

fn id_of(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;

    use super::*;
    use crate::domain::history::{Batch, Counters};
    use crate::store::{Store, StoreError};

    fn url(path: &Path) -> String {
        format!("sqlite://{}", path.display())
    }

    fn totals(total: i64) -> Counters {
        Counters { total, ..Counters::default() }
    }

    /// Returns a batch that counts `total` requests of one day and nothing else.
    fn batch(total: i64) -> Batch {
        Batch { requests: [(chrono::NaiveDate::default(), totals(total))].into_iter().collect(), ..Batch::default() }
    }

    fn check_away(result: Result<(), StoreError>, reason: &str) {
        match result {
            Err(StoreError::Away(found)) => assert!(found.contains(reason), "{found}"),
            other => panic!("{other:?}, not away"),
        }
    }

    /// Checks that another connection finds the database sound and reads `total` requests from it.
    fn check_file(path: &Path, total: i64) {
        let mut connection = SqliteConnection::establish(&path.display().to_string()).expect("a database");
        connection.batch_execute("PRAGMA integrity_check").expect("sound");
        drop(connection);
        assert_eq!(Store::open(&url(path)).expect("a database").load_request_totals(), Ok(totals(total)));
    }

    #[test]
    fn nothing_is_written_while_the_file_is_gone_and_all_is_well_when_it_is_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, elsewhere) = (folder.path().join("a.db"), folder.path().join("elsewhere.db"));
        let mut store = Store::open(&url(&path)).expect("a new database");
        store.write_batch(&batch(1)).expect("written");
        fs::rename(&path, &elsewhere).expect("moved away");
        check_away(store.write_batch(&batch(10)), "is gone");
        check_away(store.ping(), "is gone");
        check_away(store.save_endpoints(&[], &[crate::domain::ids::EndpointId(uuid::Uuid::nil())]), "is gone");
        assert!(!path.exists(), "no new file is made behind the operator's back");
        fs::rename(&elsewhere, &path).expect("moved back");
        store.write_batch(&batch(100)).expect("written");
        drop(store);
        check_file(&path, 101);
    }

    #[test]
    fn a_file_in_place_of_the_open_one_is_used_once_it_is_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, backup) = (folder.path().join("a.db"), folder.path().join("backup.db"));
        Store::open(&url(&backup)).expect("a new database").write_batch(&batch(1)).expect("written");
        let mut store = Store::open(&url(&path)).expect("a new database");
        store.write_batch(&batch(10)).expect("written");
        for rest in ["", "-wal", "-shm"] {
            fs::remove_file(format!("{}{rest}", path.display())).expect("removed");
        }
        check_away(store.write_batch(&batch(100)), "is gone");
        let whole = fs::read(&backup).expect("a database");
        for (length, reason) in [(0, "empty"), (50, "not a database"), (whole.len() - 1, "cut off")] {
            fs::write(&path, &whole[..length]).expect("written");
            check_away(store.write_batch(&batch(100)), reason);
        }
        fs::write(&path, &whole).expect("written");
        store.write_batch(&batch(1000)).expect("written");
        fs::remove_file(&path).expect("removed");
        check_away(store.ping(), "is gone");
        fs::write(&path, &whole).expect("written");
        store.write_batch(&batch(10_000)).expect("written");
        drop(store);
        check_file(&path, 10_001);
    }

    #[test]
    fn the_log_of_a_replaced_file_is_no_part_of_the_file_in_its_place() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, backup) = (folder.path().join("a.db"), folder.path().join("backup.db"));
        Store::open(&url(&backup)).expect("a new database").write_batch(&batch(1)).expect("written");
        let mut store = Store::open(&url(&path)).expect("a new database");
        store.write_batch(&batch(10)).expect("written");
        assert!(
            fs::metadata(folder.path().join("a.db-wal")).is_ok_and(|log| log.len() > 0),
            "what is written is there"
        );
        fs::rename(&backup, &path).expect("put in its place");
        store.write_batch(&batch(100)).expect("written");
        drop(store);
        check_file(&path, 101);
    }

    #[test]
    fn a_log_that_came_with_the_file_in_place_of_the_open_one_is_a_part_of_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, other) = (folder.path().join("a.db"), folder.path().join("other.db"));
        let mut writer = Store::open(&url(&other)).expect("a new database");
        writer.write_batch(&batch(1)).expect("written");
        let mut store = Store::open(&url(&path)).expect("a new database");
        store.write_batch(&batch(10)).expect("written");
        for rest in ["", "-wal", "-shm"] {
            fs::remove_file(format!("{}{rest}", path.display())).expect("removed");
        }
        for rest in ["", "-wal"] {
            let from = format!("{}{rest}", other.display());
            fs::copy(from, format!("{}{rest}", path.display())).expect("copied");
        }
        store.write_batch(&batch(100)).expect("written");
        drop(store);
        check_file(&path, 101);
    }
}
