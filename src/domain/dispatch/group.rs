//! One endpoint as the table of slots keeps it, and the group of those that serve the same models, kept in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::breaker::Breaker;
use super::choose::{Balancing, Candidate, Rank, Standing};
use super::model_set::ModelSet;
use crate::domain::endpoint::EndpointFacts;
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::load::LoadReport;
use crate::domain::time::Moment;

/// The models of a group.
pub type ModelNames = Arc<BTreeSet<ModelId>>;

/// Identifies a group for as long as it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// An endpoint, and what follows from its leases, reports and failures.
pub struct Endpoint {
    pub facts: EndpointFacts,
    /// The numbers of its models.
    pub models: ModelSet,
    pub in_flight: u32,
    /// When it was last chosen, as a count of grants: the smallest is next.
    pub turn: u64,
    /// How often it was chosen.
    pub selections: u64,
    pub report: Option<Reported>,
    /// It has failed a request, and neither served one nor answered a probe since.
    pub is_suspect: bool,
    pub breaker: Breaker,
    /// Follows from all the above.
    pub standing: Standing,
    /// `None` while it is not online.
    pub group: Option<GroupId>,
}

/// A load report, and whether it counts.
pub struct Reported {
    /// Elsewhere, so that the table of endpoints stays small.
    pub report: Box<LoadReport>,
    /// When it stops to count.
    pub until: Moment,
    /// It counted when that was last looked at.
    pub is_fresh: bool,
}

impl Endpoint {
    pub fn has_free_slot(&self) -> bool {
        self.in_flight < self.facts.max_concurrency
    }

    /// Tells whether its breaker keeps requests away.
    pub fn is_skipped(&self) -> bool {
        self.breaker.skips()
    }

    /// Ranks it anew.
    pub fn judge(&mut self, balancing: &Balancing) {
        let fresh = self.report.as_ref().filter(|reported| reported.is_fresh);
        self.standing = balancing.judge(&Candidate {
            capability_score: self.facts.capability_score,
            in_flight: self.in_flight,
            slots: self.facts.max_concurrency,
            report: fresh.map(|reported| reported.report.as_ref()),
            is_suspect: self.is_suspect,
        });
    }

    /// Returns its places among the free of its group, and among the strained.
    fn places(&self) -> ((Rank, u64, EndpointId), (bool, u64, EndpointId)) {
        let id = self.facts.id();
        ((self.standing.rank, self.turn, id), (self.is_suspect, self.turn, id))
    }
}

/// The online endpoints that serve the same models.
pub struct Group {
    pub models: ModelNames,
    pub members: usize,
    /// Of all members, free or not.
    pub slots: u64,
    /// Members whose breaker is closed.
    pub closed: usize,
    /// Those with a free slot, the best first.
    pub free: BTreeSet<(Rank, u64, EndpointId)>,
    /// Those with a free slot that are skipped, the best first; not among the free.
    pub skipped: BTreeSet<(Rank, u64, EndpointId)>,
    /// Those of the free that are strained, by turn, suspects last.
    pub strained: BTreeSet<(bool, u64, EndpointId)>,
}

impl Group {
    /// Takes up what follows from an endpoint's state.
    pub fn add(&mut self, endpoint: &Endpoint) {
        let (place, strained) = endpoint.places();
        self.closed += usize::from(endpoint.breaker.is_closed());
        if !endpoint.has_free_slot() {
            return;
        }
        if endpoint.is_skipped() {
            self.skipped.insert(place);
            return;
        }
        self.free.insert(place);
        if endpoint.standing.is_strained {
            self.strained.insert(strained);
        }
    }

    /// Forgets what follows from an endpoint's state, which must be as it was when it was added.
    pub fn take_out(&mut self, endpoint: &Endpoint) {
        let (place, strained) = endpoint.places();
        self.closed -= usize::from(endpoint.breaker.is_closed());
        if !endpoint.has_free_slot() {
            return;
        }
        if endpoint.is_skipped() {
            self.skipped.remove(&place);
            return;
        }
        self.free.remove(&place);
        if endpoint.standing.is_strained {
            self.strained.remove(&strained);
        }
    }
}
