//! Endpoints that have failed requests: which are chosen last, which are skipped, and when a skipped endpoint is tried
//! again.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};

use super::breaker::Breaker;
use crate::domain::blame::{Attempt, Sign};
use crate::domain::ids::{EndpointId, LeaseId};
use crate::domain::time::Moment;

/// The consequences of the failures of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether the endpoint gets requests.
    pub breaker: Breaker,
    /// When the endpoint last failed a request; `None` if it has served one, or answered a later probe, since.
    suspect_since: Option<Moment>,
}

impl Record {
    /// Tells whether the endpoint is chosen last.
    pub fn is_suspect(&self) -> bool {
        self.suspect_since.is_some()
    }
}

/// The breakers and suspicions of all endpoints. An endpoint without failures takes no memory.
#[derive(Debug)]
pub struct Trials {
    records: HashMap<EndpointId, Record>,
    /// Online endpoints whose breaker is not closed.
    tripped: BTreeSet<EndpointId>,
    /// The open breakers, by the end of the skip.
    open: BTreeSet<(Moment, EndpointId)>,
    /// Endpoints whose breaker shows another state than at the last [`Trials::take_turned`].
    turned: BTreeSet<EndpointId>,
}

impl Trials {
    /// Creates the trials of endpoints that have not failed any request.
    pub fn new() -> Self {
        Self { records: HashMap::new(), tripped: BTreeSet::new(), open: BTreeSet::new(), turned: BTreeSet::new() }
    }

    /// Returns the consequences of an endpoint's failures.
    pub fn of(&self, id: EndpointId) -> Record {
        self.records.get(&id).copied().unwrap_or_default()
    }

    /// Forgets the failures of an endpoint.
    pub fn forget(&mut self, id: EndpointId) {
        self.set(id, Record::default());
        self.tripped.remove(&id);
    }

    /// Learns that an endpoint has answered a probe sent at `sent`, which clears an older suspicion.
    pub fn probe_answered(&mut self, id: EndpointId, sent: Moment) {
        let Record { breaker, suspect_since } = self.of(id);
        let suspect_since = suspect_since.filter(|since| sent < *since);
        self.set(id, Record { breaker: breaker.probe_answered(sent), suspect_since });
    }

    /// Learns of the first byte of a good answer of an endpoint. Returns whether the endpoint's breaker has closed.
    pub fn answer_began(&mut self, id: EndpointId, lease: LeaseId) -> bool {
        let has_closed = self.of(id).breaker.is_tried_with(lease);
        if has_closed {
            self.set(id, Record { breaker: self.of(id).breaker.answer_began(lease), suspect_since: None });
        }
        has_closed
    }

    /// Returns the endpoints whose breaker shows another state than at the last call.
    pub fn take_turned(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.turned)
    }

    /// Learns whether an endpoint is online.
    pub fn set_online(&mut self, id: EndpointId, is_online: bool) {
        if is_online && !self.of(id).breaker.is_closed() {
            self.tripped.insert(id);
        } else {
            self.tripped.remove(&id);
        }
    }

    /// Learns of a grant on an endpoint. Returns whether the lease is the endpoint's trial.
    pub fn granted(&mut self, id: EndpointId, lease: LeaseId) -> bool {
        let Some(record) = self.records.get_mut(&id) else { return false };
        record.breaker = record.breaker.granted(lease);
        record.breaker.is_tried_with(lease)
    }

    /// Learns what an attempt says about its endpoint. Returns whether the breaker has opened or closed.
    pub fn judged(&mut self, now: Moment, id: EndpointId, attempt: Attempt, sign: Sign) -> bool {
        let before = self.of(id);
        let suspect_since = match sign {
            Sign::Good => before.suspect_since.filter(|since| attempt.granted < *since),
            Sign::Bad | Sign::Busy => before.suspect_since.max(Some(attempt.ended)),
            Sign::Undecided | Sign::Nothing => before.suspect_since,
        };
        // Verdicts that are reached together come in no order, so that a skip counts from the newest failure.
        let ended = suspect_since.filter(|_| sign == Sign::Bad).unwrap_or(attempt.ended);
        let after = Record { breaker: before.breaker.judged(now, Attempt { ended, ..attempt }, sign), suspect_since };
        if before != after {
            self.set(id, after);
        }
        before.breaker.is_closed() != after.breaker.is_closed()
    }

    /// Returns the online endpoints whose breaker is not closed.
    pub fn tripped(&self) -> Vec<EndpointId> {
        self.tripped.iter().copied().collect()
    }

    /// Tells whether an endpoint is online and its breaker is not closed.
    pub fn is_tripped(&self, id: EndpointId) -> bool {
        self.tripped.contains(&id)
    }

    /// Returns when the next open breaker allows a trial, and whose breaker this is; `None` if no breaker is open.
    pub fn next_trial(&self) -> Option<(Moment, EndpointId)> {
        self.open.first().copied()
    }

    /// Begins an endpoint's trial if its breaker has been open for long enough.
    pub fn begin(&mut self, now: Moment, id: EndpointId) {
        let record = self.of(id);
        self.set(id, Record { breaker: record.breaker.waited(now), ..record });
    }

    /// Returns the leases of the trial requests.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.records.values().filter_map(|record| match record.breaker {
            Breaker::Trial { lease, .. } => lease,
            Breaker::Closed { .. } | Breaker::Open(_) => None,
        })
    }

    fn set(&mut self, id: EndpointId, record: Record) {
        let is_default = record == Record::default();
        let before = if is_default { self.records.remove(&id) } else { self.records.insert(id, record) };
        let before = before.unwrap_or_default().breaker;
        if let Some(until) = before.until() {
            self.open.remove(&(until, id));
        }
        if let Some(until) = record.breaker.until() {
            self.open.insert((until, id));
        }
        if !before.shows_the_same_as(record.breaker) {
            self.turned.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn attempt(lease: u64, at: Moment) -> Attempt {
        Attempt { lease: LeaseId(lease), granted: at, ended: at }
    }

    #[test]
    fn only_a_probe_sent_after_the_failure_clears_the_suspicion() {
        let (id, at) = (EndpointId(Uuid::nil()), Moment::from_micros);
        for (sent, is_suspect) in [(0, true), (9, true), (10, false), (11, false)] {
            let mut trials = Trials::new();
            trials.judged(at(5), id, attempt(1, at(5)), Sign::Busy);
            trials.judged(at(10), id, attempt(2, at(10)), Sign::Busy);
            trials.probe_answered(id, at(sent));
            assert_eq!(trials.of(id).is_suspect(), is_suspect, "sent at {sent}, failed at 10");
        }
    }

    #[test]
    fn what_breakers_show_is_told_once() {
        let (id, at) = (EndpointId(Uuid::nil()), Moment::from_micros);
        let mut trials = Trials::new();
        for lease in 0..3 {
            assert!(trials.take_turned().is_empty());
            trials.judged(at(0), id, attempt(lease, at(0)), Sign::Bad);
        }
        assert_eq!(trials.take_turned().len(), 1);
        trials.set_online(id, true);
        assert_eq!(trials.next_trial(), Some((at(1_000_000), id)));
        trials.begin(at(2_000_000), id);
        assert_eq!(trials.next_trial(), None);
        assert_eq!(trials.take_turned().len(), 1);
        trials.granted(id, LeaseId(3));
        assert!(trials.take_turned().is_empty(), "one request is allowed, and granted");
        assert!(trials.answer_began(id, LeaseId(3)) && !trials.answer_began(id, LeaseId(3)));
        assert_eq!((trials.take_turned().len(), trials.of(id)), (1, Record::default()));
    }
}
