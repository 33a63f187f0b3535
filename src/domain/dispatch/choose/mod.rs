//! Ranks endpoints with a free slot. There are three modes; each ranks an endpoint by that endpoint's own data.
//!
//! The endpoint with the lowest rank is chosen, and endpoints of equal rank take turns. In every mode an endpoint that
//! has just failed a request comes last. An endpoint whose load is too high is *strained*. If all endpoints with a free
//! slot are strained, ranks would only follow noise, and the endpoints take turns whatever their rank.

mod auto;
mod metrics;
mod policy;
mod round_robin;

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::policy::{Policy, Shortlist};
use crate::domain::load::LoadReport;

/// How an endpoint is chosen among those with a free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Endpoints that are not busy first, then by capability, then by the part of taken slots.
    Auto,
    /// All endpoints in turn.
    RoundRobin,
    /// By the reported load of CPU, memory and active requests.
    Metrics,
}

impl Mode {
    /// Returns the name used in the config file and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::RoundRobin => "round_robin",
            Mode::Metrics => "metrics",
        }
    }
}

/// The rules of the choice: the mode, what counts as busy, and how long load reports count.
#[derive(Clone, Copy, Debug)]
pub struct Balancing {
    /// How an endpoint is chosen.
    pub mode: Mode,
    /// How often the age of load reports is checked.
    pub ranking_cache: Duration,
    /// The load of the CPU above which an endpoint is busy, in percent.
    pub cpu_busy: f64,
    /// The load of the GPU above which an endpoint is busy, in percent.
    pub gpu_busy: f64,
    /// The use of GPU memory above which an endpoint is busy, in percent.
    pub vram_busy: f64,
    /// The number of active requests from which on an endpoint with a GPU is busy.
    pub active_busy: u32,
    /// How long a report counts after it was received.
    pub fresh_for: Duration,
}

#[cfg(test)]
impl Default for Balancing {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            ranking_cache: Duration::from_millis(10),
            cpu_busy: 80.0,
            gpu_busy: 80.0,
            vram_busy: 90.0,
            active_busy: 10,
            fresh_for: Duration::from_secs(120),
        }
    }
}

/// The data of one endpoint by which it is ranked.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The score that the operator gave, 0 to 10000; `None` if the operator gave none.
    pub capability_score: Option<u32>,
    /// Slots taken.
    pub in_flight: u32,
    /// All slots of the endpoint.
    pub slots: u32,
    /// The endpoint's newest load report; `None` if there is none or it is too old.
    pub report: Option<&'a LoadReport>,
    /// The endpoint has failed a request, and has neither served a request nor answered a probe since.
    pub is_suspect: bool,
}

impl Candidate<'_> {
    /// Returns the score by which the endpoint is ranked: the operator's, else the reported one, else 0.
    fn score(&self) -> Reverse<u32> {
        let reported = self.report.and_then(|report| report.capability_score);
        Reverse(self.capability_score.or(reported).unwrap_or(0))
    }

    /// Returns the taken part of the slots in units of 2⁻³², which are small enough to tell any two parts apart.
    fn fill(&self) -> u64 {
        (u64::from(self.in_flight) << 32) / u64::from(self.slots.max(1))
    }
}

/// The rank of an endpoint; the least is chosen. The fields are compared in their order. A mode leaves fields that it
/// does not use at their default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The endpoint has just failed a request.
    is_suspect: bool,
    /// The mode chooses the endpoint only if there is no other: it is busy, or reports no load.
    last_resort: bool,
    /// The bits of the reported load. The load is not negative, so its bits have the same order as its values.
    load: u64,
    /// The capability score, the highest first.
    score: Reverse<u32>,
    /// The taken part of the slots in units of 2⁻³².
    fill: u64,
}

impl Rank {
    /// Returns the rank for a choice in turn, in which suspects come last and all others are equal.
    pub fn in_turn(self) -> Self {
        Self { is_suspect: self.is_suspect, ..Self::default() }
    }
}

/// The rank of an endpoint, and whether the endpoint is strained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The rank; ignored if all endpoints with a free slot are strained.
    pub rank: Rank,
    /// The endpoint's load is too high.
    pub is_strained: bool,
}
