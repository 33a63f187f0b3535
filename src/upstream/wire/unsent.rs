//! Why a request did not leave.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a request was not written, or only in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The endpoint had closed the kept connection before any byte of the request left.
    Closed,
    /// The endpoint had sent bytes before any byte of the request left.
    Preceded,
    /// An answer came after the first byte of the request had left, and before the last.
    Overtaken,
}

impl Unsent {
    /// Returns the reason that an I/O error carries; `None` if it is an ordinary error.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Returns the I/O error that carries this reason.
    pub fn error(self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, self)
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unsent::Closed => "the endpoint had closed the connection before the request",
            Unsent::Preceded => "the endpoint had sent an answer before the request",
            Unsent::Overtaken => "the endpoint answered before it had the whole request",
        })
    }
}

impl Error for Unsent {}
