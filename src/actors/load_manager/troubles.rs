//! Reports troubles: breakers to viewers and the log, failures of endpoints and refusals of requests to the log.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};

use super::LoadManager;
use crate::actors::event_hub::Publish;
use crate::actors::facts::EndpointAnswered;
use crate::clock;
use crate::domain::blame::Blame;
use crate::domain::dispatch::Breaker;
use crate::domain::event::Event;
use crate::domain::ids::EndpointId;
use crate::domain::request::{EndedLease, Failure, Outcome, Refusal};
use crate::domain::tally::{Tallies, Told};
use crate::domain::target::Target;
use crate::lease::AnswerBegan;

/// The shortest time between two log lines about one endpoint's failures, and between two about refusals.
const TROUBLES_INTERVAL: Duration = Duration::from_secs(10);

/// Failures and refusals that are not logged yet.
pub struct Troubles {
    /// The failures by endpoint. An endpoint without recent failures takes no room.
    failures: Tallies<EndpointId, Failure>,
    refusals: Tallies<(), Refusal>,
}

impl Default for Troubles {
    fn default() -> Self {
        Self { failures: Tallies::new(TROUBLES_INTERVAL), refusals: Tallies::new(TROUBLES_INTERVAL) }
    }
}

impl LoadManager {
    /// Makes LoadManager log regularly the failures and refusals that were held back.
    pub(super) fn tell_troubles_regularly(&self, ctx: &mut Context<Self>) {
        ctx.run_interval(TROUBLES_INTERVAL, |manager, _| {
            let now = clock::now();
            manager.troubles.failures.flush(now).into_iter().for_each(|told| manager.warn_of_failures(told));
            manager.troubles.refusals.flush(now).into_iter().for_each(warn_of_refusals);
        });
    }

    /// Notes a lease that ended in a failure of its endpoint.
    pub(super) fn note_failure(&mut self, ended: &EndedLease) {
        let Outcome::Failed(failure) = &ended.outcome else { return };
        if (failure.blame() != Blame::Never || *failure == Failure::Status(429))
            && let Some(told) = self.troubles.failures.add(clock::now(), ended.target.id, failure.clone())
        {
            self.warn_of_failures(told);
        }
    }

    /// Notes a request that was refused.
    pub(super) fn note_refusal(&mut self, refusal: &Refusal) {
        if let Some(told) = self.troubles.refusals.add(clock::now(), (), refusal.clone()) {
            warn_of_refusals(told);
        }
    }

    fn warn_of_failures(&self, Told { key: id, count, reason }: Told<EndpointId, Failure>) {
        let endpoint = self.dispatcher.endpoint_name(id).unwrap_or("removed");
        log::warn!("requests failed endpoint={endpoint} endpoint_id={id} count={count} error=\"{reason}\"");
    }

    /// Tells viewers and the log which breakers have opened, have closed, or let a trial request through.
    pub(super) fn tell_breakers(&mut self) {
        let (now, wall) = (clock::now(), clock::wall());
        for (target, breaker) in self.dispatcher.take_turned_breakers() {
            log_breaker(&target, breaker);
            let event = Event::BreakerChanged { endpoint_id: target.id, breaker: breaker.view(now, wall) };
            self.events.do_send(Publish(event));
        }
    }
}

fn warn_of_refusals(Told { key: (), count, reason }: Told<(), Refusal>) {
    log::warn!("requests refused count={count} code={}", reason.code());
}

fn log_breaker(Target { name, .. }: &Target, breaker: Breaker) {
    match breaker {
        Breaker::Closed { .. } => log::info!("endpoint is no longer skipped endpoint={name}"),
        Breaker::Open(skip) => {
            log::info!("endpoint is skipped after failures endpoint={name} skip_secs={}", skip.length.as_secs());
        }
        Breaker::Trial { .. } => log::info!("endpoint is tried with one request endpoint={name}"),
    }
}

impl Handler<AnswerBegan> for LoadManager {
    type Result = ();

    fn handle(&mut self, AnswerBegan(lease): AnswerBegan, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        self.dispatcher.answer_began(clock::now(), lease, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

impl Handler<EndpointAnswered> for LoadManager {
    type Result = ();

    fn handle(&mut self, EndpointAnswered { endpoint, sent, is_sync }: EndpointAnswered, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        self.dispatcher.endpoint_answered(clock::now(), endpoint, sent, is_sync, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}
