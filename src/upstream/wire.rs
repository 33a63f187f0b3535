//! What is known of one connection to an endpoint: whether it may carry another request, and whether bytes came that no
//! request asked for.
//!
//! HTTP/1.1 has nothing that ties an answer to its request but their order on the connection. An endpoint that sends one
//! answer too many shifts all later answers of a kept connection to other requests, so:
//!
//! - Before a request is written, and when its answer has ended, nothing may be readable. `TCP_QUICKACK` at the end of an
//!   answer brings what an endpoint with Nagle's algorithm holds back.
//! - An answer that begins before its request is wholly written is an error of the endpoint, or belongs to no request.
//! - One connection of each endpoint is always **watched**: it carries no further request, and nothing may come on it for
//!   [`WATCH`]. The first answer's connection is the first to be watched, and few others are used again meanwhile, so an
//!   endpoint that always sends too much is caught before a late surplus can reach anybody.
//! - An endpoint that was caught gets a connection for each request ([`Target::is_caught`]), and no answer of a connection
//!   that was kept until then is relayed.
//!
//! Below TLS the bytes say nothing, so there only the closing of a kept connection is checked.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::future::poll_fn;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::domain::endpoint::Target;

/// How long nothing may come on a watched connection.
const WATCH: Duration = Duration::from_secs(2);

/// How many connections of an endpoint whose first watched one is not proven silent yet carry one request only. Connections
/// answered together send their surplus together, so the later ones must not be in use again by then.
const UNPROVEN: u32 = 256;

/// How much of a surplus answer is looked at, in bytes: version and status.
const STATUS_LINE: usize = 12;

/// What the connections of one thread to one endpoint share.
#[derive(Debug, Default)]
pub struct Peer {
    /// `None` for connections that carry probes only.
    target: Option<Arc<Target>>,
    /// The connection that is watched.
    watched: RefCell<Option<Rc<Wire>>>,
    /// A watched connection stayed silent.
    is_proven: Cell<bool>,
    /// Connections that were not kept because the endpoint was not proven; at most [`UNPROVEN`].
    spared: Cell<u32>,
    /// The connection on which a request was begun last, until it is asked for.
    begun: RefCell<Option<Rc<Wire>>>,
}

impl Peer {
    /// Creates what the connections to `target` share.
    pub fn new(target: Arc<Target>) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// Returns the connection on which a request was begun since the last call.
    pub fn take_begun(&self) -> Option<Rc<Wire>> {
        self.begun.borrow_mut().take()
    }

    fn is_caught(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.is_caught(clock::now()))
    }
}

/// Why a request was not written, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The endpoint had closed the kept connection before any byte of the request left.
    Closed,
    /// Bytes had come before any byte of the request left.
    Preceded,
    /// An answer came after the first and before the last byte of the request left.
    Overtaken,
}

impl Unsent {
    /// Returns what an I/O error says of the request; `None` if it is an ordinary one.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    fn error(self) -> io::Error {
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

/// Where a connection is in its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Writing,
    Reading,
    /// The answer has ended; no request is under way.
    Idle,
}

/// One connection to an endpoint.
#[derive(Debug)]
pub struct Wire {
    pub(super) tcp: RefCell<TcpStream>,
    is_tls: bool,
    peer: Rc<Peer>,
    phase: Cell<Phase>,
    /// Requests begun, the current one included.
    requests: Cell<u64>,
    /// Bytes of the current request that have left.
    written: Cell<u64>,
    answer: RefCell<AnswerBytes>,
    /// An error answer came before the request was wholly written.
    is_early: Cell<bool>,
    is_retired: Cell<bool>,
}

impl Wire {
    /// Wraps a connection that was just made.
    pub fn new(tcp: TcpStream, is_tls: bool, peer: Rc<Peer>) -> Self {
        Self {
            tcp: RefCell::new(tcp),
            is_tls,
            peer,
            phase: Cell::new(Phase::New),
            requests: Cell::new(0),
            written: Cell::new(0),
            answer: RefCell::default(),
            is_early: Cell::new(false),
            is_retired: Cell::new(false),
        }
    }

    /// Tells whether the connection carried a request before the current one.
    pub fn is_reused(&self) -> bool {
        self.requests.get() > 1
    }

    /// Tells whether an error came before the current request was wholly written.
    fn is_early(&self) -> bool {
        self.is_early.get()
    }

    /// Tells whether the answer may belong to another request: the connection carried one before, and the endpoint was caught
    /// since. The watched connection is looked at now, because its bytes may have come first and not be noticed yet.
    pub fn is_doubtful(&self) -> bool {
        if !self.is_reused() {
            return false;
        }
        let watched = self.peer.watched.borrow().clone();
        if let Some(watched) = watched
            && let Ok(Some(readable)) = watched.peek()
        {
            watched.judge(readable);
        }
        self.peer.is_caught()
    }

    /// Takes the connection out of use: it carries no further request, and nothing more is read from it.
    pub fn retire(&self) {
        self.phase.set(Phase::Idle);
        self.is_retired.set(true);
    }

    /// Tells whether an idle connection must not carry another request.
    pub(super) fn is_out_of_use(&self) -> bool {
        self.phase.get() == Phase::Idle && (self.is_retired.get() || self.peer.is_caught())
    }

    /// Checks that no answer has come before its request, or before the rest of it.
    ///
    /// # Errors
    /// If one has, or if the endpoint has closed the kept connection.
    pub(super) fn check_before_write(self: &Rc<Self>) -> io::Result<()> {
        let is_first = self.phase.get() != Phase::Writing;
        if is_first {
            self.begin_request();
            if self.is_reused() && self.peer.is_caught() {
                return Err(Unsent::Preceded.error());
            }
        }
        match self.peek() {
            Ok(None) => Ok(()),
            Ok(Some(_)) if self.is_tls => Ok(()),
            Ok(Some(Readable::Error)) if !is_first => {
                self.is_early.set(true);
                Ok(())
            }
            Ok(Some(readable)) => {
                self.judge(readable);
                Err(if is_first { Unsent::Preceded } else { Unsent::Overtaken }.error())
            }
            Err(_) if !is_first => Ok(()),
            Err(error) => Err(self.unsent(error)),
        }
    }

    fn begin_request(self: &Rc<Self>) {
        self.phase.set(Phase::Writing);
        self.requests.set(self.requests.get() + 1);
        self.written.set(0);
        self.answer.replace(AnswerBytes::default());
        self.is_early.set(false);
        self.peer.begun.replace(Some(self.clone()));
    }

    /// Takes note of a write, and names the failure of one that sent nothing of a request.
    pub(super) fn has_written(&self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(count) => {
                self.written.set(self.written.get() + count as u64);
                Ok(count)
            }
            Err(error) if self.written.get() == 0 => Err(self.unsent(error)),
            Err(error) => Err(error),
        }
    }

    fn unsent(&self, error: io::Error) -> io::Error {
        if !self.is_reused() {
            return error;
        }
        self.has_closed();
        Unsent::Closed.error()
    }

    /// Takes note that the endpoint has closed a connection that was kept for it, as one does that is restarted.
    pub(super) fn has_closed(&self) {
        if let Some(target) = self.peer.target.as_ref().filter(|_| self.requests.get() > 0) {
            target.suspect_restart();
        }
    }

    /// Takes note of bytes that awc was handed.
    pub(super) fn has_read(&self, bytes: &[u8]) {
        match self.phase.get() {
            Phase::Idle if !self.is_tls && !bytes.is_empty() => self.judge(Readable::of(bytes)),
            Phase::Idle => {}
            Phase::New | Phase::Writing | Phase::Reading => {
                self.phase.set(Phase::Reading);
                self.answer.borrow_mut().add(bytes);
            }
        }
    }

    /// Checks the connection after an answer has ended whose body had this length; `None` if it came in chunks. The
    /// connection then carries another request, or is watched, or is taken out of use.
    pub fn settle(self: &Rc<Self>, body_length: Option<u64>) {
        self.phase.set(Phase::Idle);
        if self.is_tls {
            return;
        }
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&*self.tcp.borrow()).set_tcp_quickack(true);
        if self.is_early() {
            return self.retire();
        }
        if self.answer.borrow().has_more_than(body_length) {
            self.judge(Readable::Answer);
        }
        match self.peek() {
            Ok(None) => {}
            Ok(Some(readable)) => self.judge(readable),
            Err(_) => self.retire(),
        }
        let peer = &self.peer;
        if self.is_retired.get() || peer.target.is_none() {
            return;
        }
        if peer.watched.borrow().is_none() {
            self.retire();
            peer.watched.replace(Some(self.clone()));
            actix_web::rt::spawn(watch(self.clone()));
        } else if !peer.is_proven.get() && peer.spared.get() < UNPROVEN {
            peer.spared.set(peer.spared.get() + 1);
            self.retire();
        }
    }

    /// Takes the connection out of use because of bytes that no request asked for, and catches the endpoint.
    fn judge(&self, readable: Readable) {
        self.retire();
        match readable {
            Readable::IdleNotice => {}
            Readable::Answer | Readable::Error => self.catch(),
        }
    }

    /// Remembers that the endpoint sends what no request asked for.
    pub fn catch(&self) {
        let Some(target) = &self.peer.target else { return };
        if target.catch(clock::now()) {
            log::warn!(
                "endpoint sends answers that no request asked for, each request gets a connection of its own until the \
                 next model sync endpoint={}",
                target.name
            );
        }
    }

    /// Returns what is readable; `None` if nothing is.
    ///
    /// # Errors
    /// If the connection is closed or broken.
    fn peek(&self) -> io::Result<Option<Readable>> {
        match peek(&self.tcp.borrow()) {
            Ok(readable) => Ok(Some(readable)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits for bytes on a connection that carries no request.
async fn watch(wire: Rc<Wire>) {
    let readable = poll_fn(|cx| {
        loop {
            let tcp = wire.tcp.borrow();
            ready!(tcp.poll_read_ready(cx))?;
            match tcp.try_io(Interest::READABLE, || peek(&tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                readable => return Poll::Ready(readable),
            }
        }
    });
    match timeout(WATCH, readable).await {
        Ok(Ok(readable)) => wire.judge(readable),
        // The endpoint closed the connection, which proves nothing.
        Ok(Err(_)) => {}
        Err(_) => wire.peer.is_proven.set(true),
    }
    wire.peer.watched.take();
}

/// Looks at what is readable, without waiting and without reading it.
fn peek(tcp: &TcpStream) -> io::Result<Readable> {
    if SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()])? == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let second_handle = std::net::TcpStream::from(tcp.as_fd().try_clone_to_owned()?);
    let mut bytes = [0; STATUS_LINE];
    let length = second_handle.peek(&mut bytes)?;
    Ok(Readable::of(&bytes[..length]))
}

/// What an endpoint sent that no request asked for, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readable {
    /// An error, which may be the answer to a request that is still being written.
    Error,
    /// A 408, with which some servers close an idle connection.
    IdleNotice,
    /// Anything else.
    Answer,
}

impl Readable {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'4', b'0', b'8', ..] => Readable::IdleNotice,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'4' | b'5', ..] => Readable::Error,
            _ => Readable::Answer,
        }
    }
}

/// What is known of the bytes of an answer, without reading them as HTTP does.
#[derive(Debug, Default)]
struct AnswerBytes {
    length: u64,
    /// The length of the head, its blank line included, once that has come.
    head_length: Option<u64>,
    /// The last bytes.
    tail: [u8; 4],
}

impl AnswerBytes {
    fn add(&mut self, bytes: &[u8]) {
        if self.head_length.is_none() {
            self.find_head_end(bytes);
        }
        self.length += bytes.len() as u64;
        let kept = bytes.len().min(4);
        self.tail.rotate_left(kept);
        self.tail[4 - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
    }

    /// Looks for the blank line, which may have begun in earlier bytes.
    fn find_head_end(&mut self, bytes: &[u8]) {
        let mut seen = [0; 7];
        seen[..4].copy_from_slice(&self.tail);
        let joined = bytes.len().min(3);
        seen[4..4 + joined].copy_from_slice(&bytes[..joined]);
        let across = memchr::memmem::find(&seen[1..4 + joined], END_OF_HEAD).map(|at| at + 1);
        let within = || memchr::memmem::find(bytes, END_OF_HEAD).map(|at| at + END_OF_HEAD.len());
        self.head_length = across.or_else(within).map(|end| self.length + end as u64);
    }

    /// Tells whether more came than an answer whose body has this length; `None` if it ends with its last chunk.
    fn has_more_than(&self, body_length: Option<u64>) -> bool {
        match (self.head_length, body_length) {
            (Some(head), Some(body)) => self.length > head + body,
            (Some(_), None) => &self.tail != END_OF_HEAD,
            (None, _) => false,
        }
    }
}

/// The blank line after a head, and after the last chunk of a body.
const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_answer_is_seen_however_it_is_cut() {
        let check = |text: &str, body_length, expected: bool| {
            for size in 1..=text.len() {
                let mut answer = AnswerBytes::default();
                text.as_bytes().chunks(size).for_each(|piece| answer.add(piece));
                assert_eq!(answer.has_more_than(body_length), expected, "{text:?} in pieces of {size}");
            }
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        check(&format!("{head}right"), Some(5), false);
        check(&format!("{head}\r\n\r\n!"), Some(5), false);
        check(&format!("{head}right{head}stray"), Some(5), true);
        check(&format!("{head}rightH"), Some(5), true);
        check(head, Some(0), false);
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n";
        check(chunks, None, false);
        check(&chunks.replace("0\r\n\r\n", "0\r\nx-trailer: 1\r\n\r\n"), None, false);
        check(&format!("{chunks}{head}stray"), None, true);
    }

    #[test]
    fn a_surplus_answer_is_known_by_its_status() {
        assert_eq!(Readable::of(b"HTTP/1.1 200"), Readable::Answer);
        assert_eq!(Readable::of(b"HTTP/1.1 413"), Readable::Error);
        assert_eq!(Readable::of(b"HTTP/1.0 408"), Readable::IdleNotice);
        assert_eq!(Readable::of(b"stray"), Readable::Answer);
        assert_eq!(Readable::of(b"H"), Readable::Answer);
    }
}
