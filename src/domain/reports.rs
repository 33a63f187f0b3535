//! The latest load reports of one endpoint.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::load::LoadReport;
use super::time::Moment;

/// How many reports of an endpoint are kept.
pub const REPORTS_MAX: usize = 10;

/// How a report reached Leaseway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportSource {
    /// The endpoint, or an agent beside it, sent the report.
    Pushed,
    /// Leaseway asked the endpoint.
    Pulled,
}

/// A load report with the way and the time of its arrival.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReceivedReport {
    /// The report itself.
    #[serde(flatten)]
    pub report: LoadReport,
    /// How the report reached Leaseway.
    pub source: ReportSource,
    /// When the report reached Leaseway.
    pub received_at: DateTime<Utc>,
}

/// The latest reports of one endpoint, [`REPORTS_MAX`] at most, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    latest: VecDeque<ReceivedReport>,
    /// When the endpoint last pushed a report; `None` for never.
    pushed: Option<Moment>,
}

impl Reports {
    /// Keeps a report. If there are then more than [`REPORTS_MAX`], the oldest is dropped.
    pub fn add(&mut self, now: Moment, report: ReceivedReport) {
        if report.source == ReportSource::Pushed {
            self.pushed = Some(now);
        }
        if self.latest.len() == REPORTS_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(report);
    }

    /// Tells whether the endpoint pushed a report less than `fresh_for` ago. Leaseway does not ask such an endpoint for
    /// its load, because pushed reports tell more.
    pub fn is_pushed(&self, now: Moment, fresh_for: Duration) -> bool {
        self.pushed.is_some_and(|pushed| now.since(pushed) < fresh_for)
    }

    /// Returns the reports, oldest first.
    pub fn to_vec(&self) -> Vec<ReceivedReport> {
        self.latest.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(source: ReportSource, active: u32) -> ReceivedReport {
        let report = LoadReport { active_requests: Some(active), ..LoadReport::default() };
        ReceivedReport { report, source, received_at: DateTime::default() }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_latest_ten_are_kept_in_their_order() {
        let mut reports = Reports::default();
        (0..25).for_each(|active| reports.add(at(1), report(ReportSource::Pulled, active)));
        let active: Vec<u32> = reports.to_vec().iter().filter_map(|kept| kept.report.active_requests).collect();
        assert_eq!(active, (15..25).collect::<Vec<u32>>());
    }

    #[test]
    fn only_what_was_pushed_lately_makes_asking_needless() {
        let fresh_for = Duration::from_secs(120);
        let mut reports = Reports::default();
        assert!(!reports.is_pushed(at(10), fresh_for));
        reports.add(at(10), report(ReportSource::Pulled, 1));
        assert!(!reports.is_pushed(at(10), fresh_for));
        reports.add(at(20), report(ReportSource::Pushed, 1));
        reports.add(at(30), report(ReportSource::Pulled, 1));
        assert!(reports.is_pushed(at(139), fresh_for));
        assert!(!reports.is_pushed(at(140), fresh_for));
    }
}
