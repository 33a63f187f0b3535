//! Picks one of the best endpoints for a request and gives the reason.

use super::{Balancing, Candidate, Mode, Rank, Standing, auto, metrics, round_robin};
use crate::domain::dispatch::decision::GrantReason;
use crate::domain::dispatch::order::Place;
use crate::domain::ids::EndpointId;

/// The best of the endpoints that have a free slot for a request and have not failed the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shortlist {
    /// The best endpoint first.
    best: [Option<Place>; Shortlist::MAX],
    /// The endpoint whose turn it is if all endpoints that could be listed are strained; else `None`.
    pub in_turn: Option<Place>,
}

impl Shortlist {
    /// How many endpoints are listed at most: the best, and the next best for the reason of the choice.
    pub const MAX: usize = 2;

    /// Lists an endpoint unless better endpoints fill the list.
    pub fn add(&mut self, place: Place) {
        let [best, next] = &mut self.best;
        if next.as_ref().is_some_and(|next| *next < place) {
            return;
        }
        let is_best = best.as_ref().is_none_or(|best| place < *best);
        *next = if is_best { best.replace(place) } else { Some(place) };
    }

    /// Returns the best endpoint; `None` if the list is empty.
    pub fn best(&self) -> Option<&Place> {
        self.best[0].as_ref()
    }
}

/// Ranks endpoints and picks one of the best.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    rules: Balancing,
}

impl Policy {
    /// Creates a policy that follows these rules.
    pub fn new(rules: Balancing) -> Self {
        Self { rules }
    }

    /// Returns the rules that the policy follows.
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

    /// Picks one of the listed endpoints and gives the reason; `None` if the list is empty.
    pub fn pick(&self, list: &Shortlist) -> Option<(EndpointId, GrantReason)> {
        let [best, next] = &list.best;
        let best = best.as_ref()?;
        let Some(next) = next else { return Some((best.id, GrantReason::OnlyCandidate)) };
        match &list.in_turn {
            Some(in_turn) => Some((in_turn.id, GrantReason::RoundRobin)),
            None => Some((best.id, self.reason(&best.rank, &next.rank))),
        }
    }

    /// Returns why the endpoint with the rank `chosen` was preferred to the one with the rank `next`.
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
