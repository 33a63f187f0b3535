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

/// Makes a database file that counts one request. A connection that is dropped may be closed later, with what it leaves in the
/// write-ahead log.
fn make(path: &Path) {
    let mut store = Store::open(&url(path)).expect("a new database");
    store.write_batch(&batch(1)).expect("written");
    store.checkpoint().expect("moved into the file");
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
    make(&backup);
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
    make(&backup);
    let mut store = Store::open(&url(&path)).expect("a new database");
    store.write_batch(&batch(10)).expect("written");
    assert!(fs::metadata(folder.path().join("a.db-wal")).is_ok_and(|log| log.len() > 0), "what is written is there");
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

#[test]
fn a_file_that_is_moved_alone_has_everything_that_was_confirmed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, moved) = (folder.path().join("a.db"), folder.path().join("moved.db"));
    let mut store = Store::open(&url(&path)).expect("a new database");
    for total in [1, 10] {
        store.write_batch(&batch(total)).expect("written");
    }
    fs::rename(&path, &moved).expect("moved away");
    check_away(store.ping(), "is gone");
    check_file(&moved, 11);
    fs::rename(&moved, &path).expect("moved back");
    store.write_batch(&batch(100)).expect("written");
    fs::rename(&path, &moved).expect("moved away");
    make(&folder.path().join("new.db"));
    fs::rename(folder.path().join("new.db"), &path).expect("put in its place");
    store.write_batch(&batch(1000)).expect("written");
    check_file(&moved, 111);
    drop(store);
    check_file(&path, 1001);
}

#[test]
fn a_backup_that_is_copied_over_the_open_file_is_used_and_stays_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.db");
    make(&path);
    let backup = fs::read(&path).expect("a database");
    let mut store = Store::open(&url(&path)).expect("a database");
    let mut other = SqliteConnection::establish(&path.display().to_string()).expect("a connection");
    other.batch_execute("CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(100000))").expect("written");
    drop(other);
    store.write_batch(&batch(10)).expect("written");
    store.checkpoint().expect("moved into the file");
    store.write_batch(&batch(100)).expect("written");
    fs::write(&path, &backup).expect("copied");
    store.write_batch(&batch(1000)).expect("written");
    drop(store);
    check_file(&path, 1001);
}

#[test]
fn a_file_that_is_emptied_or_cut_off_in_its_place_is_away() {
    for (length, reason) in [(0, "the file is empty"), (50, "not a database"), (8192, "cannot be used")] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let mut store = Store::open(&url(&path)).expect("a new database");
        store.write_batch(&batch(1)).expect("written");
        let open = fs::OpenOptions::new().write(true).open(&path).expect("a file");
        open.set_len(length).expect("cut off");
        check_away(store.write_batch(&batch(10)), reason);
        drop(store);
        assert_eq!(fs::metadata(&path).expect("still there").len(), length, "nothing is written into it");
    }
}

#[test]
fn a_database_that_others_shrink_and_move_out_of_its_log_is_still_itself() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.db");
    let mut store = Store::open(&url(&path)).expect("a new database");
    let mut other = SqliteConnection::establish(&path.display().to_string()).expect("a connection");
    let mut total = 0;
    for statement in [
        "CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(1000000))",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "DROP TABLE more",
        "VACUUM",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA auto_vacuum = FULL; VACUUM",
        "CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(1000000))",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "DELETE FROM more",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ] {
        other.batch_execute(statement).expect(statement);
        store.write_batch(&batch(1)).expect(statement);
        assert_eq!(store.checkpoint(), Ok(()));
        total += 1;
        assert_eq!(store.load_request_totals(), Ok(totals(total)), "after {statement}");
    }
    assert_eq!(store.connection().map(drop), Ok(()));
    drop((store, other));
    check_file(&path, total);
}

#[test]
fn a_file_that_cannot_be_reached_is_away_with_the_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (inner, elsewhere) = (folder.path().join("inner"), folder.path().join("elsewhere"));
    fs::create_dir(&inner).expect("a folder");
    let mut store = Store::open(&url(&inner.join("a.db"))).expect("a new database");
    fs::rename(&inner, &elsewhere).expect("moved away");
    fs::write(&inner, "").expect("a file in place of the folder");
    check_away(store.ping(), "Not a directory");
}
