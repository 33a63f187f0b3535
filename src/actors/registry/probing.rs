//! Probes: when they are sent and what they change.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture};

use super::entry::Entry;
use super::{Registry, RegistryError};
use crate::actors::event_hub::Publish;
use crate::clock;
use crate::domain::endpoint::{EndpointStatus, EndpointView, Target};
use crate::domain::event::Event;
use crate::domain::health::{ProbeAnswer, ProbeFailure};
use crate::domain::ids::EndpointId;
use crate::domain::time::Moment;

type Probed = Result<ProbeAnswer, ProbeFailure>;

/// Probes an endpoint and reads its models anew; answered with what came of it.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct SyncEndpoint(pub EndpointId);

impl Handler<SyncEndpoint> for Registry {
    type Result = ResponseActFuture<Self, Result<EndpointView, RegistryError>>;

    fn handle(&mut self, SyncEndpoint(id): SyncEndpoint, _: &mut Context<Self>) -> Self::Result {
        let Some(entry) = self.entries.get(&id) else {
            return async move { Err(RegistryError::NotFound(id)) }.into_actor(self).boxed_local();
        };
        let (target, sent) = (entry.target.clone(), clock::now());
        self.prober
            .probe(entry.probe())
            .into_actor(self)
            .map(move |probed, registry, ctx| {
                if probed.is_ok() {
                    target.trust_again();
                }
                registry.probed(&target, sent, probed, ctx);
                registry.entries.get(&id).map(Entry::view).ok_or(RegistryError::NotFound(id))
            })
            .boxed_local()
    }
}

impl Registry {
    /// Probes every endpoint for which it is time, and asks the others for their load at least.
    pub(super) fn probe_due(&mut self, ctx: &mut Context<Self>) {
        self.save_observed(ctx);
        let (now, interval) = (clock::now(), self.health.interval);
        let due = |entry: &Entry| entry.health.probe_due(now, entry.target.heard(), interval);
        let due: Vec<(EndpointId, bool)> = self.entries.iter().map(|(id, entry)| (*id, due(entry))).collect();
        for (id, is_due) in due {
            if is_due {
                self.probe(id, ctx);
            } else {
                self.ask_for_load(id, ctx);
            }
        }
    }

    /// Probes the endpoints that are loading or may be gone.
    pub(super) fn unsettled_due(&mut self, ctx: &mut Context<Self>) {
        let unsettled = self.entries.values().filter(|entry| entry.health.is_unsettled());
        let ids: Vec<EndpointId> = unsettled.map(|entry| entry.target.id).collect();
        for id in ids {
            self.probe(id, ctx);
        }
    }

    /// Probes an endpoint, unless a probe of it is on its way.
    pub(super) fn probe(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.probing {
            return;
        }
        entry.probing = true;
        let (target, sent) = (entry.target.clone(), clock::now());
        let probe = self.prober.probe(entry.probe());
        ctx.spawn(probe.into_actor(self).map(move |probed, registry, ctx| {
            if let Some(entry) = registry.entries.get_mut(&id).filter(|entry| Arc::ptr_eq(&entry.target, &target)) {
                entry.probing = false;
            }
            registry.probed(&target, sent, probed, ctx);
            registry.ask_for_load(id, ctx);
        }));
    }

    /// Tells everybody of an endpoint that has changed, and whose status was `before`.
    pub(super) fn tell_change(&mut self, id: EndpointId, before: EndpointStatus) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.status() != before {
            log_status(entry, before);
            let (old_status, new_status) = (before, entry.status());
            self.publish(Event::EndpointStatusChanged { endpoint_id: id, old_status, new_status });
        }
        self.publish(Event::changed(entry.view()));
        // The catalogue first: who has been granted a lease may ask for the model list next.
        self.publish_catalog(&[id]);
        self.tell_changed(vec![id], Vec::new());
    }

    /// Takes over what a probe found; one of a definition that has changed since counts for nothing.
    fn probed(&mut self, target: &Arc<Target>, sent: Moment, probed: Probed, ctx: &mut Context<Self>) {
        let id = target.id;
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| Arc::ptr_eq(&entry.target, target)) else { return };
        let status_before = entry.status();
        let seen_before = (entry.models.clone(), entry.detected_kind);
        let mut is_cleared = false;
        match probed {
            Ok(answer) => {
                is_cleared = std::mem::take(&mut entry.is_suspect);
                entry.health.answered(sent, clock::wall(), &answer);
                if let Some(models) = answer.models {
                    entry.models = models;
                }
                entry.detected_kind = answer.kind.or(entry.detected_kind);
            }
            Err(failure) => entry.health.failed(sent, target.heard(), failure, self.health.failures_to_offline),
        }
        self.unsaved.insert(id);
        self.neighbours.events.do_send(Publish(Event::HealthChanged(entry.health_changed())));
        let status = entry.status();
        let changed = status != status_before || seen_before != (entry.models.clone(), entry.detected_kind);
        if !changed {
            if is_cleared {
                self.tell_changed(vec![id], Vec::new());
            }
            return;
        }
        self.tell_change(id, status_before);
        self.save_observed(ctx);
    }
}

fn log_status(entry: &Entry, before: EndpointStatus) {
    let (endpoint, status) = (&entry.definition.name, entry.status());
    match entry.health.last_error().filter(|_| !entry.is_online() && !entry.is_draining) {
        None => log::info!("endpoint is {status}, was {before} endpoint={endpoint} models={}", entry.models.len()),
        Some(error) => log::warn!("endpoint is {status}, was {before} endpoint={endpoint} error=\"{error}\""),
    }
}
