//! Load reports: what endpoints, or agents beside them, push, and what endpoints tell when asked.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::facts::LoadReported;
use crate::clock;
use crate::domain::ids::EndpointId;
use crate::domain::load::LoadReport;
use crate::domain::reports::{ReceivedReport, ReportSource};

impl Registry {
    /// Asks an endpoint for its load if it tells it; not one that pushes reports, which know more.
    pub(super) fn ask_for_load(&self, id: EndpointId, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.is_online()) else { return };
        if entry.reports.is_pushed(clock::now(), self.reports_fresh) {
            return;
        }
        let target = entry.target.clone();
        let Some(load) = self.prober.load(entry.probe()) else { return };
        ctx.spawn(load.into_actor(self).map(move |report, registry, _| {
            let is_current = |entry: &Entry| Arc::ptr_eq(&entry.target, &target);
            if let Some(report) = report
                && registry.entries.get(&id).is_some_and(is_current)
            {
                // The endpoint is there, so that this cannot fail.
                let _ = registry.take_up(id, report, ReportSource::Pulled);
            }
        }));
    }

    fn take_up(&mut self, id: EndpointId, report: LoadReport, source: ReportSource) -> Result<(), RegistryError> {
        let entry = self.entries.get_mut(&id).ok_or(RegistryError::NotFound(id))?;
        let received = clock::now();
        entry.reports.add(received, ReceivedReport { report: report.clone(), source, received_at: clock::wall() });
        self.neighbours.loads.do_send(LoadReported { endpoint: id, report, received });
        Ok(())
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
