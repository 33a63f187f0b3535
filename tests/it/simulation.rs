//! Random histories of the dispatcher: after every step its invariants hold, and an outside observer that keeps its own
//! books agrees with every decision.

mod choices;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use leaseway::domain::dispatch::admission::{Admission, AdmissionDecision};
use leaseway::domain::dispatch::choose::{Balancing, Mode};
use leaseway::domain::dispatch::{Decision, Dispatcher, Grant, QueueRules, Submitted};
use leaseway::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus, Target};
use leaseway::domain::ids::{ClientId, EndpointId, LeaseId, ModelId, RequestId, Ticket};
use leaseway::domain::load::LoadReport;
use leaseway::domain::request::{ApiKind, Failure, LeaseEnd, LeaseRequest, Outcome, Refusal};
use leaseway::domain::time::Moment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use self::choices::{Breaker, Choices};

const ENDPOINTS: u128 = 6;
const MODELS: [&str; 4] = ["a", "b", "c", "unknown"];
const CLIENTS: u8 = 4;
const MAX_WAITING: usize = 20;
const WARM_UP: Duration = Duration::from_millis(700);

/// What an observer knows without looking into the dispatcher.
struct World {
    dispatcher: Dispatcher,
    admission: Admission,
    now: Moment,
    ids: Vec<u128>,
    endpoints: BTreeMap<EndpointId, EndpointFacts>,
    leases: HashMap<LeaseId, Held>,
    line: Line,
    delayed: Line,
    /// Those who wait for an endpoint that is loading.
    warming: Line,
    choices: Choices,
    answered: BTreeSet<Ticket>,
    next_ticket: u64,
    draining: bool,
}

#[derive(Clone, Debug)]
struct Waiter {
    ticket: Ticket,
    request: LeaseRequest,
    deadline: Moment,
    arrived: Moment,
    /// When its delay, or its wait for an endpoint that is loading, ends, if it is in one.
    until: Moment,
}

/// A lease, and what it was asked for with.
struct Held {
    endpoint: EndpointId,
    target: Arc<Target>,
    request: LeaseRequest,
    deadline: Moment,
}

/// The line as plain lists.
#[derive(Default)]
struct Line {
    /// In the order of joining.
    waiters: Vec<Waiter>,
    /// The clients that wait, the next to be served first.
    ring: Vec<ClientId>,
}

impl Line {
    fn join(&mut self, waiter: Waiter) {
        let client = &waiter.request.client;
        if !self.ring.contains(client) {
            self.ring.push(client.clone());
        }
        let first = self.waiters.iter().position(|other| other.request.client == *client);
        match first {
            Some(first) if waiter.request.is_retry() => self.waiters.insert(first, waiter),
            _ => self.waiters.push(waiter),
        }
    }

    fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        let place = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        let waiter = self.waiters.remove(place);
        if !self.waiters.iter().any(|other| other.request.client == waiter.request.client) {
            self.ring.retain(|client| *client != waiter.request.client);
        }
        Some(waiter)
    }

    fn next_for(&self, suits: impl Fn(&LeaseRequest) -> bool) -> Option<Ticket> {
        self.ring.iter().find_map(|client| {
            let mut own = self.waiters.iter().filter(|waiter| waiter.request.client == *client);
            own.find(|waiter| suits(&waiter.request)).map(|waiter| waiter.ticket)
        })
    }

    fn pass_turn(&mut self, client: &ClientId) {
        if let Some(place) = self.ring.iter().position(|other| other == client) {
            let served = self.ring.remove(place);
            self.ring.push(served);
        }
    }
}

impl World {
    /// A world in this mode whose line can be filled, or one that refuses newcomers before.
    fn new(mode: Mode, can_be_full: bool) -> Self {
        let reject_threshold = if can_be_full { 1.0 } else { 0.9 };
        let admission = Admission { delay_threshold: 0.4, reject_threshold, max_delay: Duration::from_millis(1000) };
        let balancing = Balancing {
            mode,
            ranking_cache: Duration::ZERO,
            cpu_busy: 80.0,
            gpu_busy: 80.0,
            vram_busy: 90.0,
            active_busy: 10,
            fresh_for: Duration::from_millis(2000),
        };
        Self {
            dispatcher: Dispatcher::new(
                QueueRules { max_waiting: MAX_WAITING, admission, warm_up: WARM_UP },
                balancing,
            ),
            admission,
            now: Moment::from_micros(0),
            ids: (0..ENDPOINTS).collect(),
            endpoints: BTreeMap::new(),
            leases: HashMap::new(),
            line: Line::default(),
            delayed: Line::default(),
            warming: Line::default(),
            choices: Choices::new(balancing),
            answered: BTreeSet::new(),
            next_ticket: 0,
            draining: false,
        }
    }

    fn in_flight(&self, id: EndpointId) -> usize {
        self.leases.values().filter(|held| held.endpoint == id).count()
    }

    fn can_serve(&self, facts: &EndpointFacts, request: &LeaseRequest) -> bool {
        serves(facts, request)
            && self.in_flight(facts.id()) < facts.max_concurrency as usize
            && self.may_get(facts, &request.model)
    }

    /// Tells whether an endpoint is not skipped because of its failures, or the model has no other.
    fn may_get(&self, facts: &EndpointFacts, model: &ModelId) -> bool {
        let id = facts.id();
        !self.choices.is_skipped(self.now, id) || self.is_last_resort(model)
    }

    /// Tells whether every online endpoint with the model has failed so often that it would be skipped.
    fn is_last_resort(&self, model: &ModelId) -> bool {
        let online = |facts: &&EndpointFacts| facts.status == EndpointStatus::Online && facts.models.contains(model);
        !self.endpoints.values().filter(online).any(|facts| self.is_closed(facts))
    }

    fn is_closed(&self, facts: &EndpointFacts) -> bool {
        self.choices.breakers.get(&facts.id()).is_none_or(Breaker::is_closed)
    }

    fn granted(&mut self, ticket: Ticket, request: LeaseRequest, deadline: Moment, grant: &Grant) {
        assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
        let facts = self.endpoints.get(&grant.target.id).expect("granted on an endpoint that is gone");
        assert!(self.can_serve(facts, &request), "granted on {facts:?}, which cannot serve {request:?}");
        assert!(!self.draining, "granted while draining");
        let held = Held { endpoint: grant.target.id, target: grant.target.clone(), request, deadline };
        assert!(self.leases.insert(grant.lease, held).is_none(), "a lease id is used twice");
        self.choices.granted(self.now, grant.target.id, grant.lease);
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.line.waiters.iter().chain(&self.delayed.waiters).chain(&self.warming.waiters)
    }

    fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        [&mut self.line, &mut self.delayed, &mut self.warming].into_iter().find_map(|line| line.leave(ticket))
    }

    /// Tells whether nobody serves the model, nor may after its first probe, but somebody who is loading.
    fn is_loading(&self, model: &ModelId) -> bool {
        let some = |status, may: fn(&EndpointFacts, &ModelId) -> bool| {
            self.endpoints.values().any(|facts| facts.status == status && may(facts, model))
        };
        let serves = |facts: &EndpointFacts, model: &ModelId| facts.models.contains(model);
        let may_serve =
            |facts: &EndpointFacts, model: &ModelId| facts.models.is_empty() || facts.models.contains(model);
        some(EndpointStatus::Loading, may_serve)
            && !some(EndpointStatus::Online, serves)
            && !some(EndpointStatus::Pending, may_serve)
    }

    fn submit(&mut self, random: &mut StdRng) {
        let model = ModelId::from(MODELS[random.random_range(0..MODELS.len())]);
        let client = ClientId::Named([random.random_range(0..CLIENTS)].into());
        let request = LeaseRequest::new(RequestId::from("r"), model, ApiKind::ChatCompletions, client);
        let deadline = self.now.after(Duration::from_millis(random.random_range(0..3000)));
        self.ask(request, deadline);
    }

    fn ask(&mut self, request: LeaseRequest, deadline: Moment) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let capable = self.endpoints.values().filter(|facts| self.can_serve(facts, &request));
        let capable: Vec<(&EndpointFacts, usize)> = capable.map(|facts| (facts, self.in_flight(facts.id()))).collect();
        let chosen = self.choices.expected(self.now, &capable, self.is_last_resort(&request.model));
        let waiting = self.waiters().count();
        let admission = self.admission.decide(waiting, MAX_WAITING);
        let mut decisions = Vec::new();
        let submitted = self.dispatcher.submit(self.now, ticket, request.clone().into(), deadline, &mut decisions);
        self.follow(decisions);
        match submitted {
            Submitted::Granted(grant) => {
                assert_eq!(Some(grant.target.id), chosen, "{:?}", self.choices.reports);
                self.granted(ticket, request, deadline, &grant);
            }
            Submitted::Refused(refusal) => {
                assert!(chosen.is_none() || self.draining, "{refusal:?} although an endpoint is free");
                assert!(self.answered.insert(ticket));
                if request.is_retry() {
                    let last_resort = self.is_last_resort(&request.model);
                    let counts =
                        |facts: &EndpointFacts| serves(facts, &request) && (last_resort || self.is_closed(facts));
                    let untried = self.endpoints.values().any(counts);
                    let expected = match untried {
                        _ if self.draining => refusal == Refusal::Draining,
                        false => matches!(refusal, Refusal::NothingUntried { .. }),
                        true => refusal == Refusal::QueueTimeout { waited: Duration::ZERO },
                    };
                    assert!(expected, "{refusal:?}");
                    return;
                }
                let full = matches!(refusal, Refusal::QueueFull { .. });
                assert_eq!(full, waiting >= MAX_WAITING && may_wait(&refusal));
                let overloaded = matches!(refusal, Refusal::Overloaded { .. });
                assert!(!overloaded || admission == AdmissionDecision::Reject);
            }
            Submitted::Waiting => {
                assert!(chosen.is_none(), "waits although an endpoint is free");
                let is_loading = self.is_loading(&request.model);
                let is_retry = request.is_retry();
                let waiter = |until| Waiter { ticket, request, deadline, arrived: self.now, until };
                match admission {
                    _ if is_retry => self.line.join(waiter(self.now)),
                    _ if waiting >= MAX_WAITING => panic!("waits although the line is full"),
                    AdmissionDecision::Reject => panic!("waits although it was to be refused"),
                    _ if is_loading => self.warming.join(waiter(self.now.after(WARM_UP))),
                    AdmissionDecision::Accept => self.line.join(waiter(self.now)),
                    AdmissionDecision::AcceptWithDelay(delay) => self.delayed.join(waiter(self.now.after(delay))),
                }
            }
        }
    }

    fn follow(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            match decision {
                Decision::Grant(ticket, grant) => {
                    let endpoint = &self.endpoints[&grant.target.id];
                    let suits = |request: &LeaseRequest| self.can_serve(endpoint, request);
                    let next = self.line.next_for(suits).or_else(|| self.delayed.next_for(suits));
                    assert_eq!(Some(ticket), next, "served out of turn");
                    let waiter = self.line.leave(ticket).inspect(|waiter| self.line.pass_turn(&waiter.request.client));
                    let delayed =
                        || self.delayed.leave(ticket).inspect(|waiter| self.delayed.pass_turn(&waiter.request.client));
                    let waiter = waiter.or_else(delayed).expect("granted to one who does not wait");
                    assert!(waiter.deadline > self.now, "granted after the deadline");
                    self.granted(ticket, waiter.request, waiter.deadline, &grant);
                }
                Decision::Refuse(ticket, refusal) => {
                    let waiter = self.leave(ticket).expect("refused to one who does not wait");
                    assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
                    assert_eq!(waiter.deadline <= self.now, matches!(refusal, Refusal::QueueTimeout { .. }));
                    let warmed = refusal == Refusal::WarmingUp;
                    assert!(!warmed || waiter.until <= self.now, "refused before its wait was over");
                }
            }
        }
    }

    fn cancel(&mut self, random: &mut StdRng) {
        let ticket = Ticket(random.random_range(0..self.next_ticket + 1));
        let mut decisions = Vec::new();
        if self.leave(ticket).is_some() {
            self.answered.insert(ticket);
        }
        self.dispatcher.cancel(self.now, ticket, &mut decisions);
        self.follow(decisions);
    }

    fn end(&mut self, random: &mut StdRng) {
        let mut held: Vec<LeaseId> = self.leases.keys().copied().collect();
        held.sort_unstable();
        let lease = match held.get(random.random_range(0..held.len() + 1)) {
            Some(lease) => *lease,
            None => LeaseId(random.random_range(0..1_000_000)),
        };
        let known = self.leases.remove(&lease);
        let mut decisions = Vec::new();
        let outcome = match random.random_range(0..3) {
            0 => Outcome::Abandoned,
            1 => Outcome::Succeeded { tokens: None },
            _ => Outcome::Failed(Failure::Status(500)),
        };
        let ended = self.dispatcher.end(self.now, LeaseEnd::new(lease, outcome.clone()), &mut decisions);
        let endpoint = known.as_ref().map(|held| held.endpoint);
        if let Some(held) = &known {
            let current = self.endpoints.get(&held.endpoint);
            if current.is_some_and(|facts| Arc::ptr_eq(&facts.target, &held.target)) {
                let is_online = current.is_some_and(|facts| facts.status == EndpointStatus::Online);
                self.choices.ended(self.now, held.endpoint, lease, &outcome, is_online);
            }
        }
        assert_eq!(ended.map(|finished| finished.endpoint), endpoint, "exactly the leases held can end");
        self.follow(decisions);
        if let Some(Held { endpoint, mut request, deadline, .. }) = known
            && random.random_bool(0.3)
        {
            request.tried.push(endpoint);
            self.ask(request, deadline);
        }
    }

    fn change_endpoint(&mut self, random: &mut StdRng) {
        let place = random.random_range(0..self.ids.len());
        let id = EndpointId(Uuid::from_u128(self.ids[place]));
        let mut decisions = Vec::new();
        if random.random_range(0..8) == 0 {
            // Its id is never used again.
            self.ids[place] += ENDPOINTS;
            self.endpoints.remove(&id);
            self.dispatcher.change_endpoints(self.now, Vec::new(), vec![id], &mut decisions);
        } else {
            let mut facts = random_facts(id, random);
            let old = self.endpoints.get(&id);
            if let Some(old) = old.filter(|_| random.random_bool(0.8)) {
                facts.target = old.target.clone();
            }
            let goes_on =
                |old: &EndpointFacts| old.status == EndpointStatus::Online && Arc::ptr_eq(&old.target, &facts.target);
            if !old.is_some_and(goes_on) {
                self.choices.breakers.remove(&id);
            }
            self.endpoints.insert(id, facts.clone());
            self.choices.suspects.remove(&id);
            self.dispatcher.change_endpoints(self.now, vec![facts], Vec::new(), &mut decisions);
        }
        let is_vain_retry =
            |decision: &Decision| matches!(decision, Decision::Refuse(_, Refusal::NothingUntried { .. }));
        let (vain_retries, decisions): (Vec<_>, Vec<_>) = decisions.into_iter().partition(is_vain_retry);
        let (refusals, grants) = decisions.into_iter().partition(|decision| matches!(decision, Decision::Refuse(..)));
        self.follow(vain_retries);
        self.rearrange(refusals);
        self.follow(grants);
    }

    /// Moves those who wait to where they belong after endpoints have changed, or refuses them, in order of arrival.
    fn rearrange(&mut self, mut refusals: Vec<Decision>) {
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

    fn report(&mut self, random: &mut StdRng) {
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

    fn pass_time(&mut self, random: &mut StdRng) {
        self.now = self.now.after(Duration::from_millis(random.random_range(0..400)));
        let mut decisions = Vec::new();
        self.dispatcher.expire(self.now, &mut decisions);
        let (refusals, grants) = decisions.into_iter().partition(|decision| matches!(decision, Decision::Refuse(..)));
        self.follow(refusals);
        assert!(self.waiters().all(|waiter| waiter.deadline > self.now), "the line holds something expired");
        assert!(self.warming.waiters.iter().all(|waiter| waiter.until > self.now), "waits too long for loading");
        let mut due: Vec<(Moment, Ticket)> =
            self.delayed.waiters.iter().map(|waiter| (waiter.until, waiter.ticket)).collect();
        due.retain(|(until, _)| *until <= self.now);
        due.sort_unstable();
        for (_, ticket) in due {
            let waiter = self.delayed.leave(ticket).expect("it is delayed");
            self.line.join(waiter);
        }
        self.follow(grants);
        let online = self.endpoints.values().filter(|facts| facts.status == EndpointStatus::Online);
        let breakers = online.filter_map(|facts| self.choices.breakers.get(&facts.id()));
        let next_trial = breakers.filter_map(|breaker| breaker.trial(self.now)).min();
        let next_due = self.dispatcher.next_due();
        assert!(next_due.is_none_or(|due| due > self.now));
        assert!(next_trial.is_none_or(|trial| next_due.is_some_and(|due| due <= trial)), "a trial is missed");
    }

    fn check(&self) {
        self.dispatcher.assert_invariants();
        assert_eq!(self.dispatcher.waiting(), self.waiters().count());
        assert_eq!(self.dispatcher.active(), self.leases.len());
        for waiter in self.waiters() {
            let free = self.endpoints.values().find(|facts| self.can_serve(facts, &waiter.request));
            assert!(free.is_none(), "{waiter:?} waits while {free:?} is free");
        }
    }
}

/// Tells whether an endpoint, free or not, can serve a request and has not failed it.
fn serves(facts: &EndpointFacts, request: &LeaseRequest) -> bool {
    facts.status == EndpointStatus::Online
        && facts.models.contains(&request.model)
        && !request.tried.contains(&facts.id())
}

/// Tells whether a request refused so could have waited if there had been room.
fn may_wait(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::QueueFull { .. } | Refusal::Overloaded { .. } | Refusal::QueueTimeout { .. } => true,
        Refusal::ModelNotFound
        | Refusal::NoEndpointOnline
        | Refusal::WarmingUp
        | Refusal::NothingUntried { .. }
        | Refusal::Draining => false,
    }
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
        status,
    }
}

/// Runs one history, which ends with a drain.
fn run(seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mode = [Mode::Auto, Mode::Metrics, Mode::RoundRobin][(seed % 3) as usize];
    let mut world = World::new(mode, seed.is_multiple_of(2));
    for _ in 0..steps {
        match random.random_range(0..100) {
            0..45 => world.submit(&mut random),
            45..80 => world.end(&mut random),
            80..88 => world.cancel(&mut random),
            88..92 => world.pass_time(&mut random),
            92..96 => world.report(&mut random),
            _ => world.change_endpoint(&mut random),
        }
        world.check();
    }
    let mut decisions = Vec::new();
    world.draining = true;
    world.dispatcher.drain(&mut decisions);
    for decision in decisions {
        let Decision::Refuse(ticket, Refusal::Draining) = decision else { panic!("{decision:?} while draining") };
        assert!(world.leave(ticket).is_some() && world.answered.insert(ticket));
    }
    world.submit(&mut random);
    let ended = world.dispatcher.end_all(world.now);
    assert_eq!(ended.len(), world.leases.len());
    assert_eq!(world.answered.len() as u64, world.next_ticket, "every request is answered");
    assert_eq!((world.dispatcher.waiting(), world.dispatcher.active()), (0, 0));
}

#[test]
fn random_histories_keep_every_invariant() {
    let first: u64 = match std::env::var("LEASEWAY_SIMULATION_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::rng().random::<u32>().into(),
    };
    for seed in first..first + 50 {
        println!("LEASEWAY_SIMULATION_SEED={seed}");
        run(seed, 3000);
    }
}
