//! Closer looks: find out what probes do not tell about an endpoint. Nothing waits for their results.

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Registry;
use super::entry::Entry;
use crate::clock;
use crate::domain::endpoint::EndpointKind;
use crate::domain::ids::EndpointId;
use crate::domain::reports::ReportSource;
use crate::upstream::look::{Findings, Wanted};

impl Registry {
    /// Looks closer at an endpoint when its turn comes, if there is anything to find out.
    pub(super) fn look(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        if self.wanted(id).is_some() {
            self.looks.due(id);
            self.begin_looks(ctx);
        }
    }

    /// Returns what a look at an endpoint must find out; `None` if there is nothing to find out. An endpoint that pushes reports
    /// is not asked for its load.
    fn wanted(&self, id: EndpointId) -> Option<Wanted> {
        let entry = self.entries.get(&id).filter(|entry| entry.is_online())?;
        let wanted = entry.wanted(!entry.reports.is_pushed(clock::now(), self.reports_fresh));
        wanted.is_any(entry.kind()).then_some(wanted)
    }

    /// Begins as many looks as may run at one time.
    fn begin_looks(&mut self, ctx: &mut Context<Self>) {
        while let Some(turn) = self.looks.begin() {
            let id = turn.endpoint;
            let Some((wanted, entry)) = self.wanted(id).zip(self.entries.get(&id)) else {
                self.looks.ended(turn);
                continue;
            };
            let kind = entry.kind();
            let look = self.prober.look(entry.probe(), wanted);
            ctx.spawn(look.into_actor(self).map(move |findings, registry, ctx| {
                if registry.looks.ended(turn) {
                    registry.found(id, kind, wanted, findings, ctx);
                }
                registry.begin_looks(ctx);
            }));
        }
    }

    /// Applies the findings of a look at an endpoint whose kind, as far as it was known, was `kind` when the look began.
    fn found(
        &mut self,
        id: EndpointId,
        kind: Option<EndpointKind>,
        wanted: Wanted,
        findings: Findings,
        ctx: &mut Context<Self>,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = (entry.kind(), entry.slots());
        if let Some(kind) = findings.kind {
            entry.detected(kind);
        }
        // Slots of an engine of another kind do not count.
        let is_kind = findings.kind.or(kind) == entry.kind();
        if wanted.slots && is_kind && entry.definition.max_concurrency.is_none() {
            let known = entry.engine_slots;
            entry.engine_slots = findings.slots.or(known);
            if !std::mem::replace(&mut entry.is_slots_logged, true) || entry.engine_slots != known {
                log_slots(entry);
            }
        }
        if let Some(load) = findings.load {
            // This cannot fail, since the endpoint was found above.
            let _ = self.take_up(id, load, ReportSource::Pulled);
        }
        let Some(entry) = self.entries.get(&id) else { return };
        let (kind, slots) = (entry.kind(), entry.slots());
        if (kind, slots) == before {
            return;
        }
        let status = entry.status();
        self.tell_change(id, status);
        self.unsaved.insert(id);
        self.save_observed(ctx);
        if kind != before.0 && kind == Some(EndpointKind::Llamacpp) {
            // llama.cpp may be loading its model, which it tells on a page that only probes of this kind read.
            self.probe(id, ctx);
        }
    }
}

/// Logs how many slots an endpoint has whose `max_concurrency` was left out.
fn log_slots(entry: &Entry) {
    let (endpoint, slots) = (&entry.definition.name, entry.slots());
    match entry.engine_slots {
        Some(_) => {
            log::info!("max_concurrency is left out, the engine tells its slots endpoint={endpoint} slots={slots}")
        }
        None => {
            log::info!("max_concurrency is left out and the engine tells no slots endpoint={endpoint} slots={slots}")
        }
    }
}
