//! What is done to endpoints: they come, change, go and report their load.

use std::collections::BTreeSet;
use std::sync::Arc;

use leaseway::domain::dispatch::Decision;
use leaseway::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus};
use leaseway::domain::ids::{EndpointId, ModelId};
use leaseway::domain::load::LoadReport;
use leaseway::domain::request::Refusal;
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use rand::RngExt;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::line::Waiter;
use super::{MODELS, WARM_UP, World};

impl World {
    pub fn change_endpoint(&mut self, random: &mut StdRng) {
        let place = random.random_range(0..self.ids.len());
        let id = EndpointId(Uuid::from_u128(self.ids[place]));
        let mut decisions = Vec::new();
        if random.random_range(0..8) == 0 {
            // Its id is never used again.
            self.ids[place] += self.ids.len() as u128;
            self.endpoints.remove(&id);
            self.forget_apis(id);
            self.dispatcher.change_endpoints(self.now, Vec::new(), vec![id], &mut decisions);
        } else {
            let mut facts = random_facts(id, random);
            let old = self.endpoints.get(&id);
            if let Some(old) = old {
                facts.target = random_change(&old.target, random);
            }
            if old.is_some_and(|old| !old.target.is_same_server(&facts.target)) {
                self.choices.reports.remove(&id);
                self.choices.breakers.remove(&id);
                self.choices.suspects.remove(&id);
            }
            let is_online = |facts: &EndpointFacts| facts.status == EndpointStatus::Online;
            let stays = |old: &EndpointFacts| {
                let has_come_back = is_online(&facts) && !is_online(old);
                !has_come_back && old.models == facts.models && old.target.is_same_server(&facts.target)
            };
            if !old.is_some_and(stays) {
                self.forget_apis(id);
            }
            self.endpoints.insert(id, facts.clone());
            self.dispatcher.change_endpoints(self.now, vec![facts], Vec::new(), &mut decisions);
        }
        // Those whom no endpoint can serve are refused before the others are moved.
        let is_vain = |decision: &Decision| match decision {
            Decision::Refuse(_, Refusal::NothingUntried { .. } | Refusal::ApiNotSupported(_)) => true,
            Decision::Refuse(ticket, Refusal::NoEndpointOnline) => {
                let waiter = self.waiters().find(|waiter| waiter.ticket == *ticket).expect("it waits");
                self.unserved(&waiter.request).is_some()
            }
            Decision::Refuse(..) | Decision::Grant(..) => false,
        };
        let (vain, decisions): (Vec<_>, Vec<_>) = decisions.into_iter().partition(is_vain);
        let (refusals, grants) = decisions.into_iter().partition(|decision| matches!(decision, Decision::Refuse(..)));
        self.follow(vain);
        self.rearrange(refusals);
        self.follow(grants);
    }

    /// Moves those who wait to where they belong after endpoints have changed, or refuses them, in order of arrival.
    pub fn rearrange(&mut self, mut refusals: Vec<Decision>) {
        let is_loading: Vec<ModelId> =
            MODELS.into_iter().map(ModelId::from).filter(|model| self.is_loading(model)).collect();
        let mut waiters: Vec<Waiter> = self.waiters().cloned().collect();
        waiters.sort_unstable_by_key(|waiter| (waiter.arrived, waiter.ticket));
        for Waiter { ticket, request, .. } in waiters {
            let is_refused =
                refusals.iter().position(|decision| matches!(decision, Decision::Refuse(other, _) if *other == ticket));
            let is_warming = self.warming.waiters.iter().any(|waiter| waiter.ticket == ticket);
            if let Some(at) = is_refused {
                self.follow(vec![refusals.remove(at)]);
            } else if is_warming && !is_loading.contains(&request.model) {
                let waiter = self.leave(ticket).expect("it waits");
                self.line.join(waiter);
            } else if !is_warming && is_loading.contains(&request.model) {
                let waiter = self.leave(ticket).expect("it waits");
                self.warming.join(Waiter { until: self.now.after(WARM_UP), ..waiter });
            }
        }
        assert!(refusals.is_empty(), "refused to those who do not wait: {refusals:?}");
    }

    fn forget_apis(&mut self, id: EndpointId) {
        self.served.retain(|(other, ..)| *other != id);
        self.unserved.retain(|(other, ..)| *other != id);
    }

    /// An endpoint, or one that is gone, answers a probe that was sent a while ago, perhaps because the operator wants a sync.
    pub fn answer_probe(&mut self, random: &mut StdRng) {
        let id = EndpointId(Uuid::from_u128(self.ids[random.random_range(0..self.ids.len())]));
        let ago = random.random_range(0..2_000_000);
        let sent = Moment::from_micros(self.now.as_micros().saturating_sub(ago));
        if self.endpoints.contains_key(&id) {
            self.choices.probe_answered(self.now, id, sent);
        }
        let is_sync = random.random_bool(0.5);
        if is_sync {
            self.forget_apis(id);
        }
        let mut decisions = Vec::new();
        self.dispatcher.endpoint_answered(self.now, id, sent, is_sync, &mut decisions);
        self.follow(decisions);
    }

    pub fn report(&mut self, random: &mut StdRng) {
        let id = EndpointId(Uuid::from_u128(self.ids[random.random_range(0..self.ids.len())]));
        let mut percent = || random.random_bool(0.7).then(|| f64::from(random.random_range(0..11) * 10));
        let mut report = LoadReport { cpu_usage: percent(), memory_usage: percent(), ..LoadReport::default() };
        (report.gpu_usage, report.vram_usage) = (percent(), percent());
        report.active_requests = random.random_bool(0.7).then(|| random.random_range(0..12));
        report.capability_score = random.random_bool(0.5).then(|| random.random_range(0..3));
        if self.endpoints.contains_key(&id) {
            self.choices.reports.insert(id, (report.clone(), self.now));
        }
        self.dispatcher.report_load(id, report, self.now);
    }
}

/// Returns the target as it is, or after its definition has changed: the same server, or another one.
fn random_change(target: &Arc<Target>, random: &mut StdRng) -> Arc<Target> {
    let root_url = match random.random_range(0..10) {
        0 => format!("{}/moved", target.root_url),
        1 => target.root_url.clone(),
        _ => return target.clone(),
    };
    Arc::new(target.redefined(&EndpointDefinition::new(target.name.clone(), root_url)))
}

fn random_facts(id: EndpointId, random: &mut StdRng) -> EndpointFacts {
    let definition = EndpointDefinition::new(id.to_string(), format!("http://{id}"));
    let models = MODELS[..3].iter().filter(|_| random.random_bool(0.6)).map(|model| ModelId::from(*model));
    let models: BTreeSet<ModelId> = models.collect();
    let status = match random.random_range(0..12) {
        0 => EndpointStatus::Offline,
        1 => EndpointStatus::Error,
        2 => EndpointStatus::Pending,
        3 => EndpointStatus::Loading,
        4 => EndpointStatus::Draining,
        _ => EndpointStatus::Online,
    };
    EndpointFacts {
        target: Arc::new(Target::new(id, &definition)),
        max_concurrency: random.random_range(1..4),
        capability_score: random.random_bool(0.4).then(|| random.random_range(0..3)),
        models: Arc::new(models),
        may_serve_any: random.random_bool(0.3),
        status,
    }
}
