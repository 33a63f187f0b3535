//! Tracks one connection to an endpoint: whether it may carry another request, and whether bytes came that no request asked
//! for.
//!
//! In HTTP/1.1 only the order on the connection ties an answer to its request. An endpoint that sends one answer too many
//! shifts all later answers of a kept connection to other requests. Therefore:
//!
//! - Before a request is written, and when its answer has ended, nothing may be readable. `TCP_QUICKACK` at the end of an
//!   answer makes an endpoint with Nagle's algorithm send the bytes that it holds back.
//! - An answer that begins before its request is wholly written is an error answer, or belongs to no request.
//! - Connections are **watched** from time to time: a watched connection carries no further request, and nothing may come on
//!   it for two seconds. The connection of the first answer is watched first, and few others are used again in the meantime. So
//!   an endpoint that sends too much from its first answer on is caught before a late surplus can reach a client. A habit that
//!   begins later may give wrong answers on every connection in use, until one of these is watched; see [`watching`].
//! - An endpoint that was caught gets a new connection for each request ([`Target::is_caught`]), and no answer that comes on a
//!   connection kept before is relayed.
//!
//! The bytes of a TLS connection say nothing here, so that only the closing of such a kept connection is checked.

mod answer_bytes;
mod readable;
mod unsent;
mod watching;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, ready};

use futures_util::future::poll_fn;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use self::answer_bytes::AnswerBytes;
use self::readable::{Readable, peek, readable_after};
pub use self::unsent::Unsent;
use self::watching::{Fate, GRACE, WATCH, Watched, Watching};
use crate::clock;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// The most connections that one thread watches at a time, so that watching takes few descriptors.
const WATCHED_IN_ALL_MAX: usize = 64;

/// The state that the connections of one thread to one endpoint share.
#[derive(Debug, Default)]
pub struct Peer {
    /// The endpoint; `None` for connections that carry probes only.
    target: Option<Arc<Target>>,
    /// The connections are made for one request each.
    is_fresh: bool,
    watching: Cell<Watching>,
    /// The number of connections that the thread watches, of all endpoints.
    watched_in_all: Rc<Cell<usize>>,
    /// The connection that is watched while the endpoint is not proven.
    watched: RefCell<Weak<Wire>>,
    /// The connection on which the newest request was begun, until [`Peer::take_begun`] takes it.
    begun: RefCell<Weak<Wire>>,
}

impl Peer {
    /// Creates the state that the connections to `target` share. `watched_in_all` is the same for all peers of a thread. With
    /// `is_fresh` each connection carries only one request.
    pub fn new(target: Arc<Target>, is_fresh: bool, watched_in_all: Rc<Cell<usize>>) -> Self {
        Self { target: Some(target), is_fresh, watched_in_all, ..Self::default() }
    }

    /// Tells whether each connection carries only one request.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Returns the connection on which a request was begun since the last call; `None` if no request was begun.
    pub fn take_begun(&self) -> Option<Rc<Wire>> {
        self.begun.take().upgrade()
    }

    fn is_caught(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.is_caught(clock::now()))
    }

    fn watching<T>(&self, change: impl FnOnce(&mut Watching) -> T) -> T {
        let mut watching = self.watching.get();
        let result = change(&mut watching);
        self.watching.set(watching);
        result
    }
}

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
    /// When the first request was begun.
    used_since: Cell<Moment>,
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
            used_since: Cell::default(),
            is_retired: Cell::new(false),
        }
    }

    /// Tells whether the connection carried a request before the current one.
    pub fn is_reused(&self) -> bool {
        self.requests.get() > 1
    }

    /// Tells whether the answer may belong to another request: the connection carried another request before, and the endpoint
    /// has been caught since. While the endpoint is not proven, its watched connection is checked at once, because bytes may have
    /// come on it that its task has not seen yet.
    pub fn is_doubtful(&self) -> bool {
        if !self.is_reused() {
            return false;
        }
        if !self.peer.watching.get().is_proven()
            && let Some(watched) = self.peer.watched.borrow().upgrade()
            && let Ok(Some(readable)) = watched.peek()
        {
            watched.judge(readable);
        }
        self.peer.is_caught()
    }

    fn enter(&self, phase: Phase) {
        match (self.phase.replace(phase), phase) {
            (Phase::Writing, Phase::Writing) => {}
            (Phase::Writing, _) => self.peer.watching(Watching::is_answered),
            (_, Phase::Writing) => self.peer.watching(Watching::begins),
            _ => {}
        }
    }

    /// Retires the connection: it carries no further request, and nothing more is read from it.
    pub fn retire(&self) {
        self.enter(Phase::Idle);
        self.is_retired.set(true);
    }

    /// Tells whether an idle connection must not carry another request.
    pub(super) fn must_be_dropped(&self) -> bool {
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
        self.enter(Phase::Writing);
        if self.requests.replace(self.requests.get() + 1) == 0 {
            self.used_since.set(clock::now());
        }
        self.written.set(0);
        self.answer.replace(AnswerBytes::default());
        self.is_early.set(false);
        if self.peer.target.is_some() {
            self.peer.begun.replace(Rc::downgrade(self));
        }
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
            Phase::Idle if !self.is_tls && !bytes.is_empty() => self.judge(readable_after(bytes, &self.tcp.borrow())),
            Phase::Idle => {}
            Phase::New | Phase::Writing | Phase::Reading => {
                self.enter(Phase::Reading);
                self.peer.watching(Watching::has_read);
                self.answer.borrow_mut().add(bytes);
            }
        }
    }

    /// Checks the connection after an answer has ended. `body_length` is the length of the answer's body; `None` if the body came
    /// in chunks. The connection may then carry another request, is watched, or is retired.
    pub fn settle(self: &Rc<Self>, body_length: Option<u64>) {
        self.enter(Phase::Idle);
        if self.is_tls {
            return;
        }
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&*self.tcp.borrow()).set_tcp_quickack(true);
        if self.is_early.get() {
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
        let Some(target) = self.peer.target.as_ref().filter(|_| !self.is_retired.get()) else { return };
        let now = clock::now();
        if self.peer.is_fresh || target.is_caught(now) {
            return self.retire();
        }
        let (used, has_room) = (now.since(self.used_since.get()), self.peer.watched_in_all.get() < WATCHED_IN_ALL_MAX);
        match self.peer.watching(|watching| watching.fate(now, used, has_room)) {
            Fate::Keep => {}
            Fate::Retire => self.retire(),
            Fate::Watch => {
                self.retire();
                self.peer.watched.replace(Rc::downgrade(self));
                self.peer.watched_in_all.set(self.peer.watched_in_all.get() + 1);
                actix_web::rt::spawn(watch(self.clone()));
            }
        }
    }

    /// Retires the connection because of bytes that no request asked for, and catches the endpoint unless the bytes are an idle
    /// notice.
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

impl Drop for Wire {
    fn drop(&mut self) {
        self.enter(Phase::Idle);
    }
}

/// Watches a retired connection.
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
    let peer = &wire.peer;
    let watched = tokio::select! {
        watched = timeout(WATCH, readable) => match watched {
            Ok(Ok(readable)) => {
                wire.judge(readable);
                Watched::Ended
            }
            Ok(Err(_)) => Watched::Ended,
            Err(_) => Watched::Silent,
        },
        () = must_give_way(peer) => Watched::GaveWay,
    };
    peer.watched_in_all.set(peer.watched_in_all.get() - 1);
    peer.watching(|watching| watching.ended(clock::now(), watched));
}

/// Waits until a request has been waiting that the endpoint may not serve before the end of a watched connection.
async fn must_give_way(peer: &Peer) {
    let mut waits = false;
    loop {
        sleep(GRACE).await;
        let may_block = peer.watching.get().may_block();
        if waits && may_block {
            return;
        }
        waits = may_block;
    }
}
