//! The mode `metrics`: the lowest reported load, which is CPU % + memory % + 10 × active requests, then the higher
//! capability, then in turn. Endpoints that report no load come last. If all CPUs are busy, the endpoints take turns.

use super::{Balancing, Candidate, Rank, Standing};

/// The weight of one active request in the load, in percentage points.
const ACTIVE_WEIGHT: f64 = 10.0;

/// Ranks an endpoint by its reported load. An endpoint whose CPU is busy is strained.
pub fn judge(rules: &Balancing, candidate: &Candidate<'_>) -> Standing {
    let used = candidate.report.and_then(|report| Some((report, report.cpu_usage?, report.memory_usage?)));
    let Some((report, cpu, memory)) = used else {
        let rank = Rank { last_resort: true, score: candidate.score(), ..Rank::default() };
        return Standing { rank, is_strained: false };
    };
    let load = cpu + memory + f64::from(report.active_requests.unwrap_or(0)) * ACTIVE_WEIGHT;
    // Adding 0.0 turns -0.0, whose bits are those of a large number, into 0.0.
    let load = (load + 0.0).to_bits();
    let rank = Rank { load, score: candidate.score(), ..Rank::default() };
    Standing { rank, is_strained: cpu > rules.cpu_busy }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;
    use crate::domain::dispatch::decision::GrantReason;
    use crate::domain::load::LoadReport;

    fn report(cpu: f64, memory: f64, active: u32) -> LoadReport {
        LoadReport {
            cpu_usage: Some(cpu),
            memory_usage: Some(memory),
            active_requests: Some(active),
            ..LoadReport::default()
        }
    }

    #[test]
    fn the_rank_is_load_then_capability_and_none_reported_last() {
        let reports = [(-0.0, -0.0, 0), (20.0, 30.0, 1), (20.1, 30.0, 1), (70.0, 50.0, 5), (90.0, 90.0, 0)]
            .map(|(cpu, memory, active)| report(cpu, memory, active));
        let half = LoadReport { cpu_usage: Some(1.0), ..LoadReport::default() };
        let candidate =
            |score, report| Candidate { capability_score: score, in_flight: 0, slots: 1, report, is_suspect: false };
        let ordered = [
            (candidate(None, Some(&reports[0])), GrantReason::LowestScore),
            (candidate(Some(2), Some(&reports[1])), GrantReason::HighestCapability),
            (candidate(Some(1), Some(&reports[1])), GrantReason::LowestScore),
            (candidate(Some(9), Some(&reports[2])), GrantReason::LowestScore),
            (candidate(Some(9), Some(&reports[3])), GrantReason::LowestScore),
            (candidate(Some(9), Some(&reports[4])), GrantReason::Reported),
            (candidate(Some(9999), None), GrantReason::HighestCapability),
            (candidate(None, Some(&half)), GrantReason::RoundRobin),
            (candidate(None, None), GrantReason::RoundRobin),
        ];
        let rules = Balancing { mode: super::super::Mode::Metrics, ..Balancing::default() };
        for pair in ordered.windows(2) {
            let [first, second] = [pair[0].0, pair[1].0].map(|candidate| judge(&rules, &candidate));
            assert!(first.rank <= second.rank, "{pair:?}");
            assert_eq!(Policy::new(rules).reason(&first.rank, &second.rank), pair[0].1, "{pair:?}");
        }
        assert!(judge(&rules, &candidate(None, Some(&reports[4]))).is_strained);
        assert!(!judge(&rules, &candidate(None, Some(&reports[3]))).is_strained);
    }
}
