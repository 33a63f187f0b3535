//! Tracks one connection to an endpoint: whether it may carry another request, and whether bytes came that no request asked
//! for.
//!
//! In HTTP/1.1 only the order on the connection ties an answer to its request. An endpoint that sends one answer too many
//! shifts all later answers of a kept connection to other requests. Therefore:
//!
//! - Before a request is written, and when its answer has ended, nothing may be readable. `TCP_QUICKACK` at the end of an
//!   answer makes an endpoint with Nagle's algorithm send the bytes that it holds back.
//! - An answer that begins before its request is wholly written is an error answer, or belongs to no request.
//! - One connection of each endpoint is **watched** whenever possible: it carries no further request, and nothing may come on
//!   it for [`WATCH`]. The connection of the first answer is watched first, and few others are used again in the meantime, so
//!   that an endpoint that always sends too much is caught before a late surplus can reach a client.
//! - An endpoint that was caught gets a new connection for each request ([`Target::is_caught`]), and no answer that comes on a
//!   connection kept before is relayed.
//!
//! The bytes of a TLS connection say nothing here, so that only the closing of such a kept connection is checked.

mod answer_bytes;
mod readable;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::future::poll_fn;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::answer_bytes::AnswerBytes;
use self::readable::{Readable, peek};
use crate::clock;
use crate::domain::target::Target;

/// How long a connection is watched.
const WATCH: Duration = Duration::from_secs(2);

/// How many connections of an endpoint carry only one request while no watched connection has stayed silent. Connections that
/// are answered together send their surplus together, and must not be in use again by then.
const UNPROVEN: u32 = 256;

/// The state that the connections of one thread to one endpoint share.
#[derive(Debug, Default)]
pub struct Peer {
    /// The endpoint; `None` for connections that carry probes only.
    target: Option<Arc<Target>>,
    /// The connection that is watched now.
    watched: RefCell<Option<Rc<Wire>>>,
    /// True once a watched connection has stayed silent for [`WATCH`].
    is_proven: Cell<bool>,
    /// The number of connections that were not kept because the endpoint was not proven; at most [`UNPROVEN`].
    spared: Cell<u32>,
    /// The connection on which the newest request was begun, until [`Peer::take_begun`] takes it.
    begun: RefCell<Option<Rc<Wire>>>,
}

impl Peer {
    /// Creates the state that the connections to `target` share.
    pub fn new(target: Arc<Target>) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// Returns the connection on which a request was begun since the last call; `None` if no request was begun.
    pub fn take_begun(&self) -> Option<Rc<Wire>> {
        self.begun.borrow_mut().take()
    }

    fn is_caught(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.is_caught(clock::now()))
    }
}

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
    /// No request has been begun.
    New,
    /// A request is being written.
    Writing,
    /// An answer is being read.
    Reading,
    /// The answer has ended, and no request is under way.
    Idle,
}

/// One connection to an endpoint.
#[derive(Debug)]
pub struct Wire {
    /// The connection itself.
    pub(super) tcp: RefCell<TcpStream>,
    is_tls: bool,
    peer: Rc<Peer>,
    phase: Cell<Phase>,
    /// The number of requests begun, the current one included.
    requests: Cell<u64>,
    /// The bytes of the current request that have left.
    written: Cell<u64>,
    /// The bytes of the current answer that have come.
    answer: RefCell<AnswerBytes>,
    /// An error answer came before the request was wholly written.
    is_early: Cell<bool>,
    /// The connection carries no further request.
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

    /// Tells whether an error answer came before the current request was wholly written.
    fn is_early(&self) -> bool {
        self.is_early.get()
    }

    /// Tells whether the answer may belong to another request: the connection carried another request before, and the endpoint
    /// has been caught since. The watched connection is checked at once, because bytes may have come on it that its task has not
    /// seen yet.
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

    /// Checks that no answer has come before its request, or before the rest of its request.
    ///
    /// # Errors
    /// If an answer has come, or if the endpoint has closed the kept connection.
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

    /// Notes the result of a write. If nothing of a request has left on a kept connection, the error becomes
    /// [`Unsent::Closed`].
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

    /// Notes that the endpoint has closed a connection after it carried a request, as an endpoint does when it is restarted.
    pub(super) fn has_closed(&self) {
        if let Some(target) = self.peer.target.as_ref().filter(|_| self.requests.get() > 0) {
            target.suspect_restart();
        }
    }

    /// Notes bytes that awc has read.
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

    /// Checks the connection after an answer has ended. `body_length` is the length of the answer's body; `None` if the body came
    /// in chunks. The connection may then carry another request, is watched, or is taken out of use.
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

    /// Takes the connection out of use because of bytes that no request asked for, and catches the endpoint unless the bytes are
    /// an idle notice.
    fn judge(&self, readable: Readable) {
        self.retire();
        match readable {
            Readable::IdleNotice => {}
            Readable::Answer | Readable::Error => self.catch(),
        }
    }

    /// Remembers that the endpoint sends answers that no request asked for.
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

    /// Returns the kind of the bytes that are readable; `None` if nothing is readable.
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

/// Watches a connection that carries no request, for [`WATCH`].
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
