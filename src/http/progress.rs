//! What a client's connection is doing. The stream below actix's HTTP sees bytes, handlers see requests; here they tell each
//! other, so that the stream knows whether a client keeps Leaseway waiting.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The head of a request is expected, or has begun.
    Head {
        /// The bytes that have come; 0 if the connection is new.
        received: usize,
    },
    /// A request is served.
    Serving {
        /// The end of the request's body has not been read.
        is_unread: bool,
    },
    /// The last request is answered and its body read to the end, and nothing has come since.
    Idle,
    /// The last request is answered although the end of its body has not been read.
    Unread,
}

/// The phase of one connection.
#[derive(Debug)]
pub struct Progress(Cell<Phase>);

impl Progress {
    /// Creates the progress of a connection that has just been accepted.
    pub fn new() -> Rc<Self> {
        Rc::new(Self(Cell::new(Phase::Head { received: 0 })))
    }

    /// Returns the phase.
    pub fn phase(&self) -> Phase {
        self.0.get()
    }

    /// Counts bytes that have come.
    pub fn receive(&self, bytes: usize) {
        match self.phase() {
            Phase::Head { received } => self.0.set(Phase::Head { received: received + bytes }),
            Phase::Idle if bytes > 0 => self.0.set(Phase::Head { received: bytes }),
            Phase::Idle | Phase::Serving { .. } | Phase::Unread => {}
        }
    }

    /// Begins to serve a request, whose head has come whole.
    pub fn serve(self: &Rc<Self>, has_body: bool) -> Serving {
        self.0.set(Phase::Serving { is_unread: has_body });
        Serving(self.clone())
    }

    /// Notes that the body of the request has been read to its end.
    pub fn end_body(&self) {
        if let Phase::Serving { .. } = self.phase() {
            self.0.set(Phase::Serving { is_unread: false });
        }
    }
}

/// A request that is being served; dropping it means that the request is answered.
#[derive(Debug)]
pub struct Serving(Rc<Progress>);

impl Serving {
    /// Tells whether the end of the request's body has not been read.
    pub fn is_unread(&self) -> bool {
        self.0.phase() == Phase::Serving { is_unread: true }
    }

    /// Ties the request to the body of its answer: the request is answered when the body is dropped.
    pub fn until_sent(self, body: BoxBody) -> ServedBody {
        ServedBody { body, _serving: self }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.set(if self.is_unread() { Phase::Unread } else { Phase::Idle });
    }
}

/// The body of an answer. actix drops it when all of it has been taken.
pub struct ServedBody {
    body: BoxBody,
    _serving: Serving,
}

impl MessageBody for ServedBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_a_head_unless_a_request_is_served_or_unread() {
        let progress = Progress::new();
        let check = |bytes: usize, expected: Phase| {
            progress.receive(bytes);
            assert_eq!(progress.phase(), expected);
        };
        check(0, Phase::Head { received: 0 });
        check(3, Phase::Head { received: 3 });
        check(4, Phase::Head { received: 7 });
        let serving = progress.serve(true);
        check(5, Phase::Serving { is_unread: true });
        progress.end_body();
        assert!(!serving.is_unread());
        drop(serving.until_sent(BoxBody::new(())));
        check(0, Phase::Idle);
        check(1, Phase::Head { received: 1 });
        drop(progress.serve(false));
        check(0, Phase::Idle);
        progress.end_body();
        drop(progress.serve(true));
        check(9, Phase::Unread);
        drop(progress.serve(false));
        check(2, Phase::Head { received: 2 });
    }
}
