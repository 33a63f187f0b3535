//! Probes: when they are sent, and what their results change.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Registry;
use super::entry::Entry;
use crate::actors::event_hub::Publish;
use crate::actors::facts::EndpointAnswered;
use crate::clock;
use crate::domain::endpoint::{EndpointStatus, MODELS_MAX};
use crate::domain::event::Event;
use crate::domain::health::{ProbeAnswer, ProbeFailure};
use crate::domain::ids::EndpointId;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// The shortest time between two warnings that probes cannot be sent.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

type Probed = Result<ProbeAnswer, ProbeFailure>;

impl Registry {
    /// Probes every endpoint whose probe is due, and looks closer at the others.
    pub(super) fn probe_due(&mut self, ctx: &mut Context<Self>) {
        self.save_observed(ctx);
        let (now, interval) = (clock::now(), self.health.interval);
        let due = |entry: &Entry| entry.health.probe_due(now, entry.target.heard(), interval);
        let (due, others): (Vec<&Entry>, Vec<&Entry>) = self.entries.values().partition(|entry| due(entry));
        let others: Vec<EndpointId> = others.into_iter().map(|entry| entry.target.id).collect();
        due.into_iter().for_each(|entry| self.probes.due(entry.target.id));
        self.begin_probes(ctx);
        others.into_iter().for_each(|id| self.look(id, ctx));
    }

    /// Probes the endpoints that are loading or may have gone.
    pub(super) fn unsettled_due(&mut self, ctx: &mut Context<Self>) {
        let unsettled = self.entries.values().filter(|entry| entry.health.is_unsettled());
        unsettled.for_each(|entry| self.probes.due(entry.target.id));
        self.begin_probes(ctx);
    }

    /// Probes the endpoints that may have been restarted, in order to read their models again.
    pub(super) fn restarts_due(&mut self, ctx: &mut Context<Self>) {
        let restarted = self.entries.values().filter(|entry| entry.target.take_restart_suspicion());
        restarted.for_each(|entry| self.probes.want(entry.target.id));
        self.begin_probes(ctx);
    }

    /// Probes an endpoint as soon as possible. If a probe is under way, another one follows, since the first was sent too early.
    pub(super) fn probe(&mut self, id: EndpointId, ctx: &mut Context<Self>) {
        self.probes.want(id);
        self.begin_probes(ctx);
    }

    /// Begins as many probes as may run at one time.
    fn begin_probes(&mut self, ctx: &mut Context<Self>) {
        while let Some(turn) = self.probes.begin() {
            let id = turn.endpoint;
            let callers = self.sync_callers.take(id);
            let Some(entry) = self.entries.get(&id) else {
                self.probes.ended(turn);
                continue;
            };
            let (target, sent) = (entry.target.clone(), clock::now());
            let probe = self.prober.probe(entry.probe());
            ctx.spawn(probe.into_actor(self).map(move |probed, registry, ctx| {
                if registry.probes.ended(turn) {
                    let is_sync = !callers.is_empty();
                    if is_sync && probed.is_ok() {
                        target.trust_again();
                    }
                    registry.probed(&target, sent, is_sync, probed, ctx);
                    registry.look(id, ctx);
                }
                registry.answer_syncs(id, callers);
                registry.begin_probes(ctx);
            }));
        }
    }

    /// Tells viewers and other actors that an endpoint has changed; its status was `before`.
    pub(super) fn tell_change(&mut self, id: EndpointId, before: EndpointStatus) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.status() != before {
            log_status(entry, before);
            let (old_status, new_status) = (before, entry.status());
            self.publish(Event::EndpointStatusChanged { endpoint_id: id, old_status, new_status });
        }
        self.publish(Event::changed(entry.view()));
        // The list of models is updated first: a client that gets a lease because of this change may read the list next.
        self.publish_catalog(&[id]);
        self.tell_changed(vec![id], Vec::new());
    }

    /// Applies the result of a probe that was `sent` to `target`. The result is ignored if the endpoint has another address or
    /// key by now, or if a later probe has ended before.
    fn probed(&mut self, target: &Target, sent: Moment, is_sync: bool, probed: Probed, ctx: &mut Context<Self>) {
        let id = target.id;
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.target.is_same_server(target)) else { return };
        let status_before = entry.status();
        let seen_before = (entry.models.clone(), entry.detected_kind, entry.is_list_current);
        match probed {
            Ok(answer) if entry.health.answered(sent, clock::wall(), &answer) => {
                if !answer.is_loading {
                    self.neighbours.answers.do_send(EndpointAnswered { endpoint: id, sent, is_sync });
                }
                entry.observe(answer);
            }
            Ok(_) => return,
            Err(ProbeFailure::NotSent(reason)) => return self.warn_of_descriptors(&reason),
            Err(failure) => entry.health.failed(sent, target.heard(), failure, self.health.failures_to_offline),
        }
        if entry.health.status != EndpointStatus::Online {
            // A server that comes back may be of another kind.
            entry.seeks_kind = true;
        }
        self.unsaved.insert(id);
        self.neighbours.events.do_send(Publish(Event::HealthChanged(entry.health_changed())));
        if entry.models != seen_before.0 && entry.models.len() == MODELS_MAX {
            log::warn!("list of models may be cut endpoint={} models_max={MODELS_MAX}", entry.definition.name);
        }
        let seen = (&entry.models, entry.detected_kind, entry.is_list_current);
        let changed = entry.status() != status_before || seen != (&seen_before.0, seen_before.1, seen_before.2);
        if !changed {
            return;
        }
        self.tell_change(id, status_before);
        self.save_observed(ctx);
    }

    /// Warns that probes cannot be sent, at most once in [`WARN_INTERVAL`].
    fn warn_of_descriptors(&mut self, reason: &str) {
        let now = clock::now();
        if self.warned_of_descriptors.is_none_or(|warned| now.since(warned) >= WARN_INTERVAL) {
            self.warned_of_descriptors = Some(now);
            log::warn!("probes cannot be sent, endpoints keep their status error=\"{reason}\"");
        }
    }
}

fn log_status(entry: &Entry, before: EndpointStatus) {
    let (endpoint, status) = (&entry.definition.name, entry.status());
    match entry.health.last_error().filter(|_| !entry.is_online() && !entry.is_draining) {
        None => log::info!("endpoint is {status}, was {before} endpoint={endpoint} models={}", entry.models.len()),
        Some(error) => log::warn!("endpoint is {status}, was {before} endpoint={endpoint} error=\"{error}\""),
    }
}
