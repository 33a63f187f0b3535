//! What endpoints report about their load.

use std::collections::VecDeque;

use actix::{Context, Handler, Message};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Registry, RegistryError};
use crate::actors::facts::LoadReported;
use crate::clock;
use crate::domain::ids::EndpointId;
use crate::domain::load::LoadReport;

/// How many reports of an endpoint are kept.
const REPORTS_MAX: usize = 10;

/// A report and when it came.
#[derive(Clone, Debug, Serialize)]
pub struct ReceivedReport {
    #[serde(flatten)]
    pub report: LoadReport,
    pub received_at: DateTime<Utc>,
}

/// The latest reports of one endpoint, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Reports(VecDeque<ReceivedReport>);

impl Reports {
    fn add(&mut self, report: ReceivedReport) {
        if self.0.len() == REPORTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(report);
    }

    fn to_vec(&self) -> Vec<ReceivedReport> {
        self.0.iter().cloned().collect()
    }
}

/// Takes up a report that has been checked. It counts for every lease asked for after the answer.
#[derive(Message)]
#[rtype(result = "Result<(), RegistryError>")]
pub struct ReportLoad {
    pub endpoint: EndpointId,
    pub report: LoadReport,
}

impl Handler<ReportLoad> for Registry {
    type Result = Result<(), RegistryError>;

    fn handle(&mut self, ReportLoad { endpoint, report }: ReportLoad, _: &mut Context<Self>) -> Self::Result {
        let entry = self.entries.get_mut(&endpoint).ok_or(RegistryError::NotFound(endpoint))?;
        entry.reports.add(ReceivedReport { report: report.clone(), received_at: clock::wall() });
        self.neighbours.loads.do_send(LoadReported { endpoint, report, received: clock::now() });
        Ok(())
    }
}

/// Asks for the latest reports of an endpoint, oldest first.
#[derive(Message)]
#[rtype(result = "Result<Vec<ReceivedReport>, RegistryError>")]
pub struct ListReports(pub EndpointId);

impl Handler<ListReports> for Registry {
    type Result = Result<Vec<ReceivedReport>, RegistryError>;

    fn handle(&mut self, ListReports(id): ListReports, _: &mut Context<Self>) -> Self::Result {
        self.entries.get(&id).map(|entry| entry.reports.to_vec()).ok_or(RegistryError::NotFound(id))
    }
}
