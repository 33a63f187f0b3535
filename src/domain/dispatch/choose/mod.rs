//! How endpoints with a free slot are ranked: three modes, each a rule over what is known of one endpoint.
//!
//! Ranks are compared, and endpoints of equal rank take turns. In every mode one that has just failed a request comes last. An endpoint whose load is too high is *strained*; if all
//! that have a free slot are, ranking them would only follow noise, and they take turns whatever their rank.

mod auto;
mod metrics;
mod policy;
mod round_robin;

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::policy::{Policy, Shortlist};
use crate::domain::load::LoadReport;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By load in broad strokes, then by capability.
    Auto,
    /// In turn.
    RoundRobin,
    /// By reported load.
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

/// How to choose, and what counts as busy.
#[derive(Clone, Copy, Debug)]
pub struct Balancing {
    pub mode: Mode,
    /// How often it is looked at which reports have grown too old.
    pub ranking_cache: Duration,
    /// Percent.
    pub cpu_busy: f64,
    /// Percent.
    pub gpu_busy: f64,
    /// Percent.
    pub vram_busy: f64,
    /// Requests.
    pub active_busy: u32,
    /// How long a report counts, from its receipt.
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

/// What counts of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The operator's word, 0 to 10000.
    pub capability_score: Option<u32>,
    pub in_flight: u32,
    pub slots: u32,
    /// Its newest report, if that is fresh.
    pub report: Option<&'a LoadReport>,
    /// It has failed a request, and neither served one nor answered a probe since.
    pub is_suspect: bool,
}

impl Candidate<'_> {
    /// Returns the score that counts: the operator's, else the reported one; none counts as the lowest.
    fn score(&self) -> Reverse<u32> {
        let reported = self.report.and_then(|report| report.capability_score);
        Reverse(self.capability_score.or(reported).unwrap_or(0))
    }

    /// Returns the part of its slots that is taken, in steps so small that no two parts are one.
    fn fill(&self) -> u64 {
        (u64::from(self.in_flight) << 32) / u64::from(self.slots.max(1))
    }
}

/// Where an endpoint stands; the least is chosen. Fields that a mode does not use are equal for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    is_suspect: bool,
    last_resort: bool,
    /// Bits of a number that is not negative, which are ordered as the numbers are.
    load: u64,
    score: Reverse<u32>,
    fill: u64,
}

impl Rank {
    /// Returns the rank that counts where endpoints only take turns: suspects come last.
    pub fn in_turn(self) -> Self {
        Self { is_suspect: self.is_suspect, ..Self::default() }
    }
}

/// A rank, and whether it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub rank: Rank,
    pub is_strained: bool,
}
