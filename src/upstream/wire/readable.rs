//! Looks at the bytes that can be read from a connection, without removing them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The bytes of a surplus answer that are read: those of version and status.
const STATUS_LINE: usize = 12;

/// Looks at the readable bytes without waiting and without removing them.
///
/// # Errors
/// `WouldBlock` if nothing is readable; else if the connection is closed or broken.
pub fn peek(tcp: &TcpStream) -> io::Result<Readable> {
    if SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()])? == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let second_handle = std::net::TcpStream::from(tcp.as_fd().try_clone_to_owned()?);
    let mut bytes = [0; STATUS_LINE];
    let length = second_handle.peek(&mut bytes)?;
    Ok(Readable::of(&bytes[..length]))
}

/// Returns the kind of bytes whose beginning was read from a connection, and whose rest may still be readable.
pub fn readable_after(read: &[u8], tcp: &TcpStream) -> Readable {
    let mut bytes = [0; STATUS_LINE];
    let read = &read[..read.len().min(STATUS_LINE)];
    bytes[..read.len()].copy_from_slice(read);
    let rest = match tcp.as_fd().try_clone_to_owned() {
        Ok(second_handle) => std::net::TcpStream::from(second_handle).peek(&mut bytes[read.len()..]).unwrap_or(0),
        Err(_) => 0,
    };
    Readable::of(&bytes[..read.len() + rest])
}

/// The kind of bytes that no request asked for, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// An error answer, which may belong to a request that is still being written.
    Error,
    /// An answer 408, with which some servers close an idle connection.
    IdleNotice,
    /// Any other bytes.
    Answer,
}

impl Readable {
    /// Returns the kind of bytes that begin like this.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'4', b'0', b'8', ..] => Readable::IdleNotice,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'4' | b'5', ..] => Readable::Error,
            _ => Readable::Answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surplus_answer_is_known_by_its_status() {
        assert_eq!(Readable::of(b"HTTP/1.1 200"), Readable::Answer);
        assert_eq!(Readable::of(b"HTTP/1.1 413"), Readable::Error);
        assert_eq!(Readable::of(b"HTTP/1.0 408"), Readable::IdleNotice);
        assert_eq!(Readable::of(b"stray"), Readable::Answer);
        assert_eq!(Readable::of(b"H"), Readable::Answer);
    }
}
