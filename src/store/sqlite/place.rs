//! Whether the file of an open database is still in its place and has its content. Other programs can move, remove,
//! replace or overwrite the file.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::file::HEADER_LENGTH;

/// The reason of [`Place::Gone`] when no file has the name of the database.
pub const GONE: &str = "the database file is gone";

/// What now has the name under which the database was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file that is open.
    Here,
    /// No file, or one that cannot be looked at; the text is the reason.
    Gone(String),
    /// Another file than the open one.
    Replaced,
    /// The open file, but another program has cut it off or has written another database into it.
    Overwritten,
}

/// Device and inode, which identify a file on this machine whatever its name is.
type FileId = (u64, u64);

/// The file of an open database and the name under which it was opened.
pub struct Placed {
    path: String,
    id: FileId,
    /// The file itself. It is never opened for one look alone, because closing a file drops all locks that the process
    /// has on it, those of SQLite included.
    file: File,
    /// The content at the last look.
    seen: Content,
    /// Name and identity of the write-ahead log; `None` if there was none when the database was opened.
    log: Option<(String, FileId)>,
}

impl Placed {
    /// Remembers which file has just been opened under the name `path`. The connections to the file must be closed
    /// before the returned value is dropped.
    ///
    /// # Errors
    /// If no file has the name, or the file cannot be read.
    pub fn find(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        // SQLite keeps the log beside the file itself, not beside a link to the file.
        let log = fs::canonicalize(path).ok().map(|real| format!("{}-wal", real.display()));
        let log = log.and_then(|log| fs::metadata(&log).ok().map(|found| (log, id_of(&found))));
        let (id, seen) = (id_of(&file.metadata()?), Content::read(&file)?);
        Ok(Self { path: path.to_owned(), id, file, seen, log })
    }

    /// Tells what has the name now.
    pub fn place(&mut self) -> Place {
        match fs::metadata(&self.path) {
            Ok(found) if id_of(&found) != self.id => Place::Replaced,
            Ok(_) if self.look() => Place::Here,
            Ok(_) => Place::Overwritten,
            Err(error) if error.kind() == ErrorKind::NotFound => Place::Gone(GONE.to_owned()),
            Err(error) => Place::Gone(format!("the database file cannot be reached: {error}")),
        }
    }

    /// Looks at the content of the file. Returns false if SQLite cannot have made it from the content at the last look.
    pub fn look(&mut self) -> bool {
        // The second look is for certainty: a checkpoint of another process may be writing the header during the first.
        for _ in 0..2 {
            match Content::read(&self.file) {
                Ok(now) if !now.can_follow(self.seen) => {}
                Ok(now) => {
                    self.seen = now;
                    return true;
                }
                Err(_) => return true,
            }
        }
        false
    }

    /// Empties the write-ahead log of a file that is replaced or overwritten, so that SQLite writes none of the log into
    /// the file when it closes the file. A log that came with a new file stays.
    pub fn empty_log(&self) {
        if let Some((log, _)) = self.own_log()
            && let Err(error) = OpenOptions::new().write(true).open(log).and_then(|log| log.set_len(0))
        {
            log::warn!("log of the replaced database not emptied file={log} error=\"{error}\"");
        }
    }

    /// Removes the write-ahead log of a file that is closed and replaced, so that SQLite does not take the log for a
    /// part of the new file. A log that came with the new file stays.
    pub fn remove_log(self) {
        if let Some((log, _)) = self.own_log()
            && let Err(error) = fs::remove_file(log)
        {
            log::warn!("log of the replaced database not removed file={log} error=\"{error}\"");
        }
    }

    /// Returns the log if the file that has its name now is the log that was open.
    fn own_log(&self) -> Option<&(String, FileId)> {
        self.log.as_ref().filter(|(log, id)| fs::metadata(log).is_ok_and(|found| id_of(&found) == *id))
    }
}

fn id_of(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// What length and header tell about the content of a database file
/// (https://www.sqlite.org/fileformat2.html#the_database_header).
#[derive(Clone, Copy)]
struct Content {
    /// In bytes.
    length: u64,
    /// SQLite never lowers this number, which counts changes of the header.
    changes: u32,
    /// SQLite never lowers this number, which counts changes of the schema and uses of `VACUUM`.
    schema: u32,
    /// SQLite shortens the file also without `VACUUM`.
    is_auto_vacuum: bool,
}

impl Content {
    fn read(file: &File) -> io::Result<Self> {
        // The length is read first, because SQLite writes the header before it shortens the file.
        let length = file.metadata()?.len();
        let mut header = [0; HEADER_LENGTH];
        if length >= HEADER_LENGTH as u64 {
            file.read_exact_at(&mut header, 0)?;
        }
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Ok(Self { length, changes: number(24), schema: number(40), is_auto_vacuum: number(52) != 0 })
    }

    /// Tells whether SQLite can have made this content from the content `seen`. `cp` of an older backup and `>` make
    /// another.
    fn can_follow(self, seen: Self) -> bool {
        let is_cut_off = self.length < seen.length && self.schema == seen.schema && !self.is_auto_vacuum;
        self.changes >= seen.changes && self.schema >= seen.schema && !is_cut_off
    }
}

#[cfg(test)]
mod tests;
