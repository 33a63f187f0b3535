//! Decides which connections to an endpoint are watched: they carry no further request, and nothing may come on them.

use std::time::Duration;

use crate::domain::time::Moment;

/// How long a connection is watched.
pub const WATCH: Duration = Duration::from_secs(2);

/// A watched connection gives way if the endpoint does not answer a request within one to two of these periods, unless the
/// endpoint has shown that it serves several connections at a time.
pub const GRACE: Duration = Duration::from_millis(50);

/// How long a connection of a proven endpoint is used before it is watched. Until then a late surplus answer may have shifted
/// all answers on the connection.
const USE: Duration = Duration::from_secs(1);

/// The most connections of a proven endpoint that one thread watches at a time; further ones stay in use.
const WATCHED_MAX: usize = 16;

/// How many connections of an endpoint carry only one request while no watched connection has stayed silent. Connections that
/// are answered together send their surplus together, and must not be in use again by then.
const UNPROVEN: u32 = 256;

/// How long an endpoint counts as one that serves one connection at a time.
const SERIAL: Duration = Duration::from_secs(60);

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may carry another request.
    Keep,
    /// It is closed.
    Retire,
    /// It is watched, and then closed.
    Watch,
}

/// How the watch of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Nothing came for [`WATCH`].
    Silent,
    /// A request waited for its answer, and the endpoint may have been waiting for the end of the watched connection.
    GaveWay,
    /// Bytes came, or the endpoint closed the connection, which proves nothing.
    Ended,
}

/// What is known about an endpoint from the connections of one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watching {
    /// The number of connections that are watched.
    watched: usize,
    /// True once a watched connection has stayed silent.
    is_proven: bool,
    /// The number of connections that were retired because the endpoint was not proven; at most [`UNPROVEN`].
    retired: u32,
    /// True once the endpoint has sent bytes on one connection while another was watched.
    is_parallel: bool,
    /// The number of requests that have been begun and whose answers have not.
    unanswered: usize,
    /// Until then the endpoint counts as one that serves one connection at a time.
    serial_until: Moment,
}

impl Watching {
    /// Decides what becomes of a connection whose answer has ended, `used` after its first request. `has_room` tells whether
    /// the thread may watch one more.
    pub fn fate(&mut self, now: Moment, used: Duration, has_room: bool) -> Fate {
        if now < self.serial_until {
            return Fate::Retire;
        }
        let is_due = if self.is_proven { used >= USE && self.watched < WATCHED_MAX } else { self.watched == 0 };
        if is_due && has_room {
            self.watched += 1;
            return Fate::Watch;
        }
        if self.is_proven || self.retired >= UNPROVEN {
            return Fate::Keep;
        }
        self.retired += 1;
        Fate::Retire
    }

    /// Learns that a request has been begun.
    pub fn begins(&mut self) {
        self.unanswered += 1;
    }

    /// Learns that the answer to a request has begun, or that the request was given up.
    pub fn is_answered(&mut self) {
        self.unanswered -= 1;
    }

    /// Learns that bytes have come on a connection that is not watched.
    pub fn has_read(&mut self) {
        self.is_parallel |= self.watched > 0;
    }

    /// Tells whether a request may be waiting for the end of a watched connection.
    pub fn may_block(&self) -> bool {
        !self.is_parallel && self.unanswered > 0
    }

    /// Learns that a watch has ended.
    pub fn ended(&mut self, now: Moment, watched: Watched) {
        self.watched -= 1;
        match watched {
            Watched::Silent => self.is_proven = true,
            Watched::GaveWay => self.serial_until = now.after(SERIAL),
            Watched::Ended => {}
        }
    }

    /// Tells whether a watched connection has stayed silent.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    fn fates(watching: &mut Watching, now: Moment, used: Duration, count: usize) -> Vec<Fate> {
        (0..count).map(|_| watching.fate(now, used, true)).collect()
    }

    #[test]
    fn connections_carry_one_request_until_a_watched_one_has_stayed_silent() {
        let mut watching = Watching::default();
        assert_eq!(fates(&mut watching, at(0), Duration::ZERO, 3), [Fate::Watch, Fate::Retire, Fate::Retire]);
        watching.ended(at(100), Watched::Ended);
        assert_eq!(fates(&mut watching, at(100), Duration::ZERO, 2), [Fate::Watch, Fate::Retire]);
        watching.ended(at(2100), Watched::Silent);
        assert!(watching.is_proven());
        assert_eq!(fates(&mut watching, at(2100), Duration::ZERO, 2), [Fate::Keep, Fate::Keep]);
    }

    #[test]
    fn an_endpoint_that_is_never_proven_gets_kept_connections_all_the_same() {
        let mut watching = Watching::default();
        let fates = fates(&mut watching, at(0), Duration::ZERO, 300);
        let count = |fate: Fate| fates.iter().filter(|other| **other == fate).count();
        assert_eq!((count(Fate::Watch), count(Fate::Retire), count(Fate::Keep)), (1, 256, 43));
        assert_eq!(Watching::default().fate(at(0), Duration::ZERO, false), Fate::Retire, "no room");
    }

    #[test]
    fn connections_of_a_proven_endpoint_are_watched_after_a_while_but_not_all_at_once() {
        let mut watching = Watching { is_proven: true, ..Watching::default() };
        assert_eq!(watching.fate(at(0), Duration::from_millis(999), true), Fate::Keep);
        let fates = fates(&mut watching, at(0), Duration::from_secs(1), 20);
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Watch).count(), 16);
        assert!(fates.ends_with(&[Fate::Keep; 4]));
        watching.ended(at(2000), Watched::Silent);
        assert_eq!(watching.fate(at(2000), Duration::from_secs(3), false), Fate::Keep, "no room");
        assert_eq!(watching.fate(at(2000), Duration::from_secs(3), true), Fate::Watch);
    }

    #[test]
    fn a_watch_gives_way_to_a_request_unless_the_endpoint_serves_several() {
        let mut watching = Watching::default();
        assert_eq!(watching.fate(at(10), Duration::ZERO, true), Fate::Watch);
        assert!(!watching.may_block());
        watching.begins();
        assert!(watching.may_block());
        let mut parallel = watching;
        parallel.has_read();
        assert!(!parallel.may_block());
        watching.ended(at(1050), Watched::GaveWay);
        watching.has_read();
        watching.is_answered();
        assert_eq!(fates(&mut watching, at(61_049), Duration::ZERO, 2), [Fate::Retire, Fate::Retire]);
        assert_eq!(watching.fate(at(61_050), Duration::ZERO, true), Fate::Watch);
        assert!(!watching.may_block());
        watching.begins();
        assert!(watching.may_block());
    }
}
