//! What endpoints report about their load, or tell when asked.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::entry::Entry;
use super::probing::to_probe;
use super::{Registry, RegistryError};
use crate::actors::facts::LoadReported;
use crate::clock;
use crate::domain::ids::EndpointId;
use crate::domain::load::LoadReport;
use crate::domain::time::Moment;

/// How many reports of an endpoint are kept.
const REPORTS_MAX: usize = 10;

/// How a report came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportSource {
    /// The endpoint, or an agent beside it, sent it.
    Pushed,
    /// Leaseway asked the endpoint.
    Pulled,
}

/// A report and when it came.
#[derive(Clone, Debug, Serialize)]
pub struct ReceivedReport {
    #[serde(flatten)]
    pub report: LoadReport,
    pub source: ReportSource,
    pub received_at: DateTime<Utc>,
}

/// The latest reports of one endpoint, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    latest: VecDeque<ReceivedReport>,
    /// When the last one was pushed.
    pushed: Option<Moment>,
}

impl Reports {
    fn add(&mut self, report: ReceivedReport) {
        if self.latest.len() == REPORTS_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(report);
    }

    fn to_vec(&self) -> Vec<ReceivedReport> {
        self.latest.iter().cloned().collect()
    }
}

impl Registry {
    /// Asks an endpoint for its load if it tells it; not one that pushes reports, which know more.
    pub(super) fn ask_for_load(&self, id: EndpointId, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.is_online()) else { return };
        if entry.reports.pushed.is_some_and(|pushed| clock::now().since(pushed) < self.reports_fresh) {
            return;
        }
        let target = entry.target.clone();
        let Some(load) = self.prober.load(to_probe(entry)) else { return };
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
        if source == ReportSource::Pushed {
            entry.reports.pushed = Some(received);
        }
        entry.reports.add(ReceivedReport { report: report.clone(), source, received_at: clock::wall() });
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
