//! Random histories of the dispatcher: after every step its invariants hold, and an outside observer that keeps its own
//! books agrees with every decision.

mod choices;
mod fleet;
mod journeys;
mod keys;
mod line;
mod requests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use leaseway::domain::dispatch::admission::Admission;
use leaseway::domain::dispatch::choose::{Balancing, Mode};
use leaseway::domain::dispatch::{Decision, Dispatcher, QueueRules};
use leaseway::domain::endpoint::{EndpointFacts, EndpointStatus};
use leaseway::domain::ids::{EndpointId, LeaseId, ModelId, Ticket};
use leaseway::domain::request::{ApiKind, Failure, LeaseRequest, Refusal};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::choices::{Breaker, Choices};
use self::journeys::Journeys;
use self::keys::Keys;
use self::line::{Line, Waiter};

/// Endpoints of most histories.
const FEW_ENDPOINTS: u128 = 6;

/// Endpoints of the other histories: so many serve a model that they are found in another way.
const MANY_ENDPOINTS: u128 = 40;
const MODELS: [&str; 4] = ["a", "b", "c", "unknown"];
const CLIENTS: u8 = 4;
const MAX_WAITING: usize = 20;
const MAX_ATTEMPTS: usize = 4;
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
    /// The APIs that endpoints have said they do not serve for a model.
    unserved: BTreeSet<(EndpointId, ModelId, ApiKind)>,
    /// The APIs that endpoints have served for a model since their last sync.
    served: BTreeSet<(EndpointId, ModelId, ApiKind)>,
    journeys: Journeys,
    keys: Keys,
    /// Endpoints that are to blame, and of which the dispatcher has not told yet.
    blamed: Vec<(EndpointId, Failure)>,
    answered: BTreeSet<Ticket>,
    next_ticket: u64,
    draining: bool,
}

/// A lease, and what it was asked for with.
struct Held {
    endpoint: EndpointId,
    target: Arc<Target>,
    request: LeaseRequest,
    deadline: Moment,
    granted: Moment,
    /// The first byte of a good answer has come.
    has_begun: bool,
}

impl World {
    /// A world of so many endpoints in this mode whose line can be filled, or one that refuses newcomers before.
    fn new(mode: Mode, can_be_full: bool, endpoints: u128) -> Self {
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
            ids: (0..endpoints).collect(),
            endpoints: BTreeMap::new(),
            leases: HashMap::new(),
            line: Line::default(),
            delayed: Line::default(),
            warming: Line::default(),
            choices: Choices::new(balancing),
            unserved: BTreeSet::new(),
            served: BTreeSet::new(),
            journeys: Journeys::default(),
            keys: Keys::default(),
            blamed: Vec::new(),
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
            && self.serves_api(facts, request)
            && self.in_flight(facts.id()) < facts.max_concurrency as usize
            && self.may_get(facts, &request.model)
            && !self.is_at_limit(request)
    }

    fn serves_api(&self, facts: &EndpointFacts, request: &LeaseRequest) -> bool {
        !self.unserved.contains(&(facts.id(), request.model.clone(), request.api_kind))
    }

    /// Returns the refusal of a request if every online endpoint with the model has said that it does not serve the API, and
    /// no endpoint that is loading or not probed yet may.
    fn unserved(&self, request: &LeaseRequest) -> Option<Refusal> {
        let with = |status| self.endpoints.values().filter(move |facts| facts.status == status);
        let has = |facts: &EndpointFacts| facts.models.contains(&request.model);
        let may_serve = |facts: &EndpointFacts| facts.may_serve_any || has(facts);
        let mut online = with(EndpointStatus::Online).filter(|facts| has(facts)).peekable();
        let mut others = with(EndpointStatus::Pending).chain(with(EndpointStatus::Loading));
        online.peek()?;
        if online.any(|facts| self.serves_api(facts, request)) || others.any(may_serve) {
            return None;
        }
        let is_known_of_all = !self.endpoints.values().any(|facts| has(facts) && self.serves_api(facts, request));
        Some(if is_known_of_all { Refusal::ApiNotSupported(request.api_kind) } else { Refusal::NoEndpointOnline })
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
        let may_serve = |facts: &EndpointFacts, model: &ModelId| facts.may_serve_any || facts.models.contains(model);
        some(EndpointStatus::Loading, may_serve)
            && !some(EndpointStatus::Online, serves)
            && !some(EndpointStatus::Pending, may_serve)
    }

    /// Returns the endpoint that a request is to be granted on now.
    fn chosen(&self, request: &LeaseRequest) -> Option<EndpointId> {
        let capable = self.endpoints.values().filter(|facts| self.can_serve(facts, request));
        let capable: Vec<(&EndpointFacts, usize)> = capable.map(|facts| (facts, self.in_flight(facts.id()))).collect();
        self.choices.expected(self.now, &capable, self.is_last_resort(&request.model))
    }

    /// Tells whether an endpoint, free or not, can serve a retry.
    fn has_untried(&self, request: &LeaseRequest) -> bool {
        let last_resort = self.is_last_resort(&request.model);
        let may = |facts: &EndpointFacts| self.serves_api(facts, request) && (last_resort || self.is_closed(facts));
        self.endpoints.values().any(|facts| serves(facts, request) && may(facts))
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

    fn check(&mut self) {
        self.dispatcher.assert_invariants();
        let in_order = |mut blamed: Vec<(EndpointId, Failure)>| {
            blamed.sort_by_key(|(endpoint, failure)| (*endpoint, failure.to_string()));
            blamed
        };
        let told = self.dispatcher.take_blamed().into_iter().map(|blamed| (blamed.target.id, blamed.failure));
        let told = in_order(told.collect());
        assert_eq!(told, in_order(std::mem::take(&mut self.blamed)), "who is to blame is told, and nobody else");
        assert_eq!(self.dispatcher.waiting(), self.waiters().count());
        assert_eq!(self.dispatcher.active(), self.leases.len());
        assert_eq!(self.journeys.under_way(), self.waiters().count() + self.leases.len(), "each waits or has a lease");
        for waiter in self.waiters() {
            let free = self.endpoints.values().find(|facts| self.can_serve(facts, &waiter.request));
            assert!(free.is_none(), "{waiter:?} waits while {free:?} is free");
            assert!(self.unserved(&waiter.request).is_none(), "{waiter:?} waits for an API that no endpoint serves");
        }
    }
}

/// Tells whether an endpoint, free or not, can serve a request and has not failed it.
fn serves(facts: &EndpointFacts, request: &LeaseRequest) -> bool {
    facts.status == EndpointStatus::Online
        && facts.models.contains(&request.model)
        && !request.tried.contains(&facts.id())
}

/// Runs one history. Its last tenth is driven while the dispatcher drains.
fn run(seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mode = [Mode::Auto, Mode::Metrics, Mode::RoundRobin][(seed % 3) as usize];
    let endpoints = if seed.is_multiple_of(5) { MANY_ENDPOINTS } else { FEW_ENDPOINTS };
    let mut world = World::new(mode, seed.is_multiple_of(2), endpoints);
    for step in 0..steps {
        if step == steps / 10 * 9 {
            world.drain();
        }
        match random.random_range(0..100) {
            0..45 => world.submit(&mut random),
            45..80 => world.end(&mut random),
            80..88 => world.cancel(&mut random),
            88..92 => world.pass_time(&mut random),
            92..94 => world.report(&mut random),
            94..95 => world.answer_probe(&mut random),
            95..96 => world.begin_answer(&mut random),
            96..97 => world.change_key(&mut random),
            97 if random.random_range(0..3) == 0 => world.begin_day(&mut random),
            _ => world.change_endpoint(&mut random),
        }
        world.check();
    }
    let ended = world.dispatcher.end_all(world.now);
    assert_eq!(ended.len(), world.leases.len());
    ended.iter().for_each(|ended| world.journeys.lease_ended(ended));
    assert_eq!(world.journeys.under_way(), 0, "every request has ended, and none twice");
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
