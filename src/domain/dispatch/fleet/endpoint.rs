//! One endpoint of the fleet, and where its state puts it among the others.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::domain::dispatch::choose::{Candidate, Policy};
use crate::domain::dispatch::index::{Availability, MemberKey, Position};
use crate::domain::dispatch::model_set::ModelSet;
use crate::domain::dispatch::models::ModelNumber;
use crate::domain::dispatch::served::ServedApis;
use crate::domain::dispatch::trials::Record;
use crate::domain::endpoint::EndpointFacts;
use crate::domain::load::LoadReport;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// An endpoint with its leases and its load report.
pub struct Endpoint {
    /// What is known of the endpoint.
    pub facts: EndpointFacts,
    /// The numbers of the endpoint's models, sorted.
    pub models: Arc<[ModelNumber]>,
    /// The same models as a set; computed when the endpoint first serves the line.
    pub model_set: OnceCell<ModelSet>,
    /// Slots taken.
    pub in_flight: u32,
    /// The number of the grant that last chose the endpoint; the smallest is next.
    pub turn: u64,
    /// How often the endpoint was chosen.
    pub selections: u64,
    /// The endpoint's last report; `None` while there is none.
    pub report: Option<Reported>,
    /// When the endpoint last served a request, as far as the first byte or the end of a good answer showed.
    pub served: Moment,
    /// The APIs that the endpoint has served since its last model sync.
    pub served_apis: ServedApis,
    /// The endpoint's key in the index; `None` while it is not online.
    pub key: Option<MemberKey>,
}

/// A load report and whether it counts.
pub struct Reported {
    /// The report, on the heap, so that the table of endpoints stays small.
    pub report: Box<LoadReport>,
    /// When the report stops counting.
    pub until: Moment,
    /// The report counted when the age of reports was last checked.
    pub is_fresh: bool,
}

impl Endpoint {
    /// Tells whether this is still its server. A request that went to another one says nothing about the endpoint.
    pub fn is_at(&self, target: &Arc<Target>) -> bool {
        target.is_same_server(&self.facts.target)
    }

    /// Tells whether a slot is free.
    pub fn has_free_slot(&self) -> bool {
        self.in_flight < self.facts.max_concurrency
    }

    /// Returns the endpoint's position among the online endpoints.
    pub fn position(&self, policy: &Policy, record: Record) -> Position {
        let fresh = self.report.as_ref().filter(|reported| reported.is_fresh);
        let standing = policy.judge(&Candidate {
            capability_score: self.facts.capability_score,
            in_flight: self.in_flight,
            slots: self.facts.max_concurrency,
            report: fresh.map(|reported| reported.report.as_ref()),
            is_suspect: record.is_suspect(),
        });
        let availability = match self.has_free_slot() {
            false => Availability::Full,
            true if record.breaker.skips() => Availability::Skipped,
            true => Availability::Free,
        };
        let is_closed = record.breaker.is_closed();
        let (id, turn) = (self.facts.id(), self.turn);
        Position { id, standing, turn, is_closed, availability }
    }
}
