//! The mode `auto`: endpoints that are not busy first, then the higher capability, then the smaller part of taken
//! slots, then in turn. If all endpoints are busy, they take turns.

use super::{Balancing, Candidate, Rank, Standing};
use crate::domain::load::LoadReport;

/// Ranks an endpoint by capability and slots. A busy endpoint is strained; an endpoint without a report is not busy.
pub fn judge(rules: &Balancing, candidate: &Candidate<'_>) -> Standing {
    let is_busy = candidate.report.is_some_and(|report| is_busy(rules, report));
    let rank = Rank { last_resort: is_busy, score: candidate.score(), fill: candidate.fill(), ..Rank::default() };
    Standing { rank, is_strained: is_busy }
}

/// Tells whether a report shows a busy endpoint. Its GPU decides if the report has GPU values, because inference runs
/// there; else its CPU decides.
fn is_busy(rules: &Balancing, report: &LoadReport) -> bool {
    let above = |value: Option<f64>, limit| value.is_some_and(|value| value > limit);
    if report.gpu_usage.is_none() && report.vram_usage.is_none() {
        return above(report.cpu_usage, rules.cpu_busy);
    }
    above(report.gpu_usage, rules.gpu_busy)
        || above(report.vram_usage, rules.vram_busy)
        || report.active_requests.is_some_and(|active| active >= rules.active_busy)
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;
    use crate::domain::dispatch::decision::GrantReason;

    /// Returns a report of CPU, GPU and GPU memory in percent, and of active requests.
    fn report(cpu: f64, gpu: Option<f64>, vram: Option<f64>, active: u32) -> LoadReport {
        LoadReport {
            cpu_usage: Some(cpu),
            gpu_usage: gpu,
            vram_usage: vram,
            active_requests: Some(active),
            ..LoadReport::default()
        }
    }

    #[test]
    fn an_endpoint_is_busy_by_its_gpu_or_without_one_by_its_cpu() {
        let check = |report: LoadReport, expected| {
            assert_eq!(is_busy(&Balancing::default(), &report), expected, "{report:?}");
        };
        check(report(80.0, None, None, 100), false);
        check(report(80.1, None, None, 0), true);
        check(report(99.0, Some(80.0), Some(90.0), 9), false);
        check(report(0.0, Some(80.1), None, 0), true);
        check(report(0.0, None, Some(90.1), 0), true);
        check(report(0.0, Some(0.0), None, 10), true);
        check(LoadReport { active_requests: Some(50), ..LoadReport::default() }, false);
    }

    #[test]
    fn the_rank_is_busy_then_capability_then_slots() {
        let busy = report(99.0, None, None, 0);
        let calm = LoadReport { capability_score: Some(9000), ..report(1.0, None, None, 0) };
        let candidate = |score, in_flight, report| Candidate {
            capability_score: score,
            in_flight,
            slots: 4,
            report,
            is_suspect: false,
        };
        // Each candidate ranks before the next one or equals it, for the reason beside it.
        let ordered = [
            (candidate(Some(9850), 3, None), GrantReason::HighestCapability),
            (candidate(Some(9170), 0, Some(&calm)), GrantReason::HighestCapability),
            (candidate(None, 1, Some(&calm)), GrantReason::HighestCapability),
            (candidate(Some(5), 1, None), GrantReason::HighestCapability),
            (candidate(None, 0, None), GrantReason::LeastActive),
            (candidate(None, 2, None), GrantReason::RoundRobin),
            (candidate(Some(0), 2, None), GrantReason::NotBusy),
            (candidate(Some(9999), 0, Some(&busy)), GrantReason::HighestCapability),
            (candidate(Some(9998), 0, Some(&busy)), GrantReason::RoundRobin),
        ];
        let rules = Balancing::default();
        for pair in ordered.windows(2) {
            let [first, second] = [pair[0].0, pair[1].0].map(|candidate| judge(&rules, &candidate));
            assert!(first.rank <= second.rank, "{pair:?}");
            assert_eq!(Policy::new(rules).reason(&first.rank, &second.rank), pair[0].1, "{pair:?}");
            assert_eq!(second.is_strained, second.rank.last_resort);
        }
    }
}
