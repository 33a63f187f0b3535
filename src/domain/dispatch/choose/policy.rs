//! Which of the best endpoints a request is granted on, and why.

use super::{Balancing, Candidate, Mode, Rank, Standing, auto, metrics, round_robin};
use crate::domain::dispatch::decision::GrantReason;
use crate::domain::dispatch::order::Place;
use crate::domain::ids::EndpointId;

/// The best endpoints that a request can be granted on: those with a free slot for it that have not failed it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shortlist {
    /// The best first.
    best: [Option<Place>; Shortlist::MAX],
    /// If all that could be listed are strained: the one whose turn it is.
    pub in_turn: Option<Place>,
}

impl Shortlist {
    /// The most endpoints listed: the best and, for the reason of the choice, the next best.
    pub const MAX: usize = 2;

    /// Lists an endpoint, unless others that are better fill the list.
    pub fn add(&mut self, place: Place) {
        let mut place = Some(place);
        for listed in &mut self.best {
            if listed.is_none_or(|listed| place.is_some_and(|place| place < listed)) {
                std::mem::swap(listed, &mut place);
            }
        }
    }

    /// Returns the best endpoint.
    pub fn best(&self) -> Option<&Place> {
        self.best[0].as_ref()
    }
}

/// How endpoints are ranked, and one of the best is picked.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    rules: Balancing,
}

impl Policy {
    /// Creates the policy of these rules.
    pub fn new(rules: Balancing) -> Self {
        Self { rules }
    }

    /// Returns the rules.
    pub fn rules(&self) -> &Balancing {
        &self.rules
    }

    /// Ranks one endpoint.
    pub fn judge(&self, candidate: &Candidate<'_>) -> Standing {
        let mut standing = match self.rules.mode {
            Mode::Auto => auto::judge(&self.rules, candidate),
            Mode::RoundRobin => round_robin::judge(),
            Mode::Metrics => metrics::judge(&self.rules, candidate),
        };
        standing.rank.is_suspect = candidate.is_suspect;
        standing
    }

    /// Picks one of the best endpoints, and tells why; `None` if the list is empty.
    pub fn pick(&self, list: &Shortlist) -> Option<(EndpointId, GrantReason)> {
        let [best, next] = &list.best;
        let best = best.as_ref()?;
        let Some(next) = next else { return Some((best.id, GrantReason::OnlyCandidate)) };
        match &list.in_turn {
            Some(in_turn) => Some((in_turn.id, GrantReason::RoundRobin)),
            None => Some((best.id, self.reason(&best.rank, &next.rank))),
        }
    }

    /// Tells why the first of two was chosen, whose ranks these are and whose turn it was if they are equal.
    pub(super) fn reason(&self, chosen: &Rank, next: &Rank) -> GrantReason {
        if chosen.is_suspect != next.is_suspect {
            GrantReason::NotFailing
        } else if chosen.last_resort != next.last_resort {
            match self.rules.mode {
                Mode::Auto | Mode::RoundRobin => GrantReason::NotBusy,
                Mode::Metrics => GrantReason::Reported,
            }
        } else if chosen.load != next.load {
            GrantReason::LowestScore
        } else if chosen.score != next.score {
            GrantReason::HighestCapability
        } else if chosen.fill != next.fill {
            GrantReason::LeastActive
        } else {
            GrantReason::RoundRobin
        }
    }
}
