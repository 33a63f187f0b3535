//! Load reports: those that endpoints or agents beside them push, and those that closer looks pull.

use actix::{Context, Handler, Message};

use super::{Registry, RegistryError};
use crate::actors::facts::LoadReported;
use crate::clock;
use crate::domain::ids::EndpointId;
use crate::domain::load::LoadReport;
use crate::domain::reports::{ReceivedReport, ReportSource};

impl Registry {
    /// Keeps a report of an endpoint and passes it on to LoadManager.
    pub(super) fn take_up(
        &mut self,
        id: EndpointId,
        report: LoadReport,
        source: ReportSource,
    ) -> Result<(), RegistryError> {
        let entry = self.entries.get_mut(&id).ok_or(RegistryError::NotFound(id))?;
        let received = clock::now();
        entry.reports.add(received, ReceivedReport { report: report.clone(), source, received_at: clock::wall() });
        self.neighbours.loads.do_send(LoadReported { endpoint: id, report, received });
        Ok(())
    }
}

/// Keeps a pushed report, which must have been checked. The report counts for every lease requested after the answer.
#[derive(Message)]
#[rtype(result = "Result<(), RegistryError>")]
pub struct ReportLoad {
    /// The endpoint that the report is about.
    pub endpoint: EndpointId,
    /// The reported load.
    pub report: LoadReport,
}

impl Handler<ReportLoad> for Registry {
    type Result = Result<(), RegistryError>;

    fn handle(&mut self, ReportLoad { endpoint, report }: ReportLoad, _: &mut Context<Self>) -> Self::Result {
        self.take_up(endpoint, report, ReportSource::Pushed)
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
