//! What choosing an endpoint costs: one grant and one release, with 10 to 100,000 endpoints, in each mode, with one model
//! that all of them serve and with 50 models of which each serves five (10 with 10 endpoints); and with 1,000, 4,000 and
//! 100,000 endpoints that have each a set of models of its own.
//!
//! Then what a request costs whose API one endpoint serves, or none does, after all others have answered 501 to it.
//!
//! Every endpoint has two slots and has reported its load; half of all slots are taken, and a lease taken at random ends
//! before each grant. `cargo bench --bench selection`.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leaseway::config;
use leaseway::domain::dispatch::admission::Admission;
use leaseway::domain::dispatch::choose::{Balancing, Mode};
use leaseway::domain::dispatch::{Dispatcher, QueueRules, Submitted};
use leaseway::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus};
use leaseway::domain::ids::{ClientId, EndpointId, LeaseId, ModelId, RequestId, Ticket};
use leaseway::domain::load::LoadReport;
use leaseway::domain::request::{ApiKind, Failure, LeaseEnd, LeaseRequest, Outcome};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const SIZES_OWN_SETS: [usize; 3] = [1_000, 4_000, 100_000];
const SIZES_UNSERVED: [usize; 3] = [100, 1_000, 2_000];
const MODELS: usize = 50;
const MODELS_PER_ENDPOINT: usize = 5;
const OPERATIONS: u32 = 300_000;

/// Which models the endpoints serve.
#[derive(Clone, Copy)]
enum Sets {
    /// So many models in all, of which each endpoint serves the same few as many others.
    Common(usize),
    /// One model that all serve, which is asked for, and three that only this endpoint serves.
    OneSharedThreeOwn,
    /// 50 models taken at random out of 200.
    FiftyOf200,
}

impl Sets {
    /// Returns the models that are asked for, and the set of each endpoint.
    fn make(self, endpoints: usize, random: &mut StdRng) -> (Vec<ModelId>, Vec<Arc<BTreeSet<ModelId>>>) {
        let model = |number: usize| ModelId::from(format!("model-{number}").as_str());
        match self {
            Sets::Common(models) => {
                let models: Vec<ModelId> = (0..models.min(endpoints)).map(model).collect();
                let set = |first| models.iter().cycle().skip(first).take(MODELS_PER_ENDPOINT.min(models.len()));
                let sets: Vec<Arc<BTreeSet<ModelId>>> =
                    (0..models.len()).map(|first| Arc::new(set(first).cloned().collect())).collect();
                let each = (0..endpoints).map(|number| sets[number % sets.len()].clone()).collect();
                (models, each)
            }
            Sets::OneSharedThreeOwn => {
                let own = |number: usize| (1..=3).map(move |own| model(4 * number + own));
                let each = (0..endpoints).map(|number| Arc::new(own(number).chain([model(0)]).collect())).collect();
                (vec![model(0)], each)
            }
            Sets::FiftyOf200 => {
                let models: Vec<ModelId> = (0..200).map(model).collect();
                let set = |random: &mut StdRng| {
                    let mut set = BTreeSet::new();
                    while set.len() < 50 {
                        set.insert(models[random.random_range(0..200)].clone());
                    }
                    Arc::new(set)
                };
                let each = (0..endpoints).map(|_| set(random)).collect();
                (models, each)
            }
        }
    }

    fn name(self) -> String {
        match self {
            Sets::Common(models) => format!("{models} in all"),
            Sets::OneSharedThreeOwn => "1 shared, 3 own".to_owned(),
            Sets::FiftyOf200 => "50 of 200".to_owned(),
        }
    }
}

struct Fleet {
    dispatcher: Dispatcher,
    random: StdRng,
    models: Vec<ModelId>,
    held: Vec<LeaseId>,
    now: Moment,
}

impl Fleet {
    fn new(mode: Mode, endpoints: usize, sets: Sets) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let (models, sets) = sets.make(endpoints, &mut random);
        let admission = Admission { delay_threshold: 1.0, reject_threshold: 1.0, max_delay: Duration::ZERO };
        let rules = QueueRules { max_waiting: 0, admission, warm_up: Duration::ZERO };
        let balancing = config::load(None, &[]).expect("the defaults").0.balancer.balancing();
        let mut fleet = Self {
            dispatcher: Dispatcher::new(rules, Balancing { mode, ..balancing }),
            random,
            models,
            held: Vec::new(),
            now: Moment::from_micros(1),
        };
        for (number, models) in sets.into_iter().enumerate() {
            let id = EndpointId(Uuid::from_u128(fleet.random.random()));
            let definition = EndpointDefinition::new(number.to_string(), format!("http://{number}"));
            let facts = EndpointFacts {
                target: Arc::new(Target::new(id, &definition)),
                max_concurrency: 2,
                capability_score: Some(fleet.random.random_range(0..=10_000)),
                models,
                may_serve_any: false,
                status: EndpointStatus::Online,
            };
            let report = LoadReport {
                cpu_usage: Some(fleet.random.random_range(0.0..100.0)),
                memory_usage: Some(fleet.random.random_range(0.0..100.0)),
                active_requests: Some(fleet.random.random_range(0..10)),
                ..LoadReport::default()
            };
            fleet.dispatcher.change_endpoints(fleet.now, vec![facts], Vec::new(), &mut Vec::new());
            fleet.dispatcher.report_load(id, report, fleet.now);
        }
        while fleet.held.len() < endpoints {
            fleet.grant();
        }
        fleet
    }

    /// Has a lease granted for a model taken at random; for another if all slots of that are taken.
    fn grant(&mut self) {
        loop {
            let model = self.models[self.random.random_range(0..self.models.len())].clone();
            if let Submitted::Granted(grant) = self.submit(model, ApiKind::ChatCompletions) {
                self.held.push(grant.lease);
                return;
            }
        }
    }

    fn submit(&mut self, model: ModelId, api_kind: ApiKind) -> Submitted {
        let client = ClientId::Address([127, 0, 0, 1].into());
        let request = LeaseRequest::new(RequestId::from("r"), model, api_kind, client);
        let deadline = self.now.after(Duration::from_secs(1));
        self.dispatcher.submit(self.now, Ticket(0), request.into(), deadline, &mut Vec::new())
    }

    /// Asks for embeddings of the first model. If a lease is granted, it ends so. Tells whether a lease was granted.
    fn embed(&mut self, outcome: Outcome) -> bool {
        let Submitted::Granted(grant) = self.submit(self.models[0].clone(), ApiKind::Embeddings) else { return false };
        black_box(self.dispatcher.end(self.now, LeaseEnd::new(grant.lease, outcome), &mut Vec::new()));
        true
    }

    /// Returns the mean time of a request for embeddings, in microseconds: first if one endpoint serves them, then if none
    /// does.
    fn measure_unserved(mut self, endpoints: usize) -> [f64; 2] {
        const REQUESTS: u32 = 2_000;
        while !self.held.is_empty() {
            self.release();
        }
        let not_implemented = || Outcome::Failed(Failure::Status(501));
        [endpoints - 1, 1].map(|learnt| {
            for _ in 0..learnt {
                assert!(self.embed(not_implemented()), "an endpoint is left");
            }
            let started = Instant::now();
            for _ in 0..REQUESTS {
                black_box(self.embed(Outcome::Abandoned));
            }
            started.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS)
        })
    }

    fn release(&mut self) {
        let lease = self.held.swap_remove(self.random.random_range(0..self.held.len()));
        black_box(self.dispatcher.end(self.now, LeaseEnd::new(lease, Outcome::Abandoned), &mut Vec::new()));
    }

    /// Returns the mean time of a grant and a release, in microseconds.
    fn measure(mut self) -> f64 {
        for _ in 0..OPERATIONS / 10 {
            self.release();
            self.grant();
        }
        let started = Instant::now();
        for _ in 0..OPERATIONS {
            self.release();
            self.grant();
        }
        let taken = started.elapsed();
        taken.as_secs_f64() * 1e6 / f64::from(OPERATIONS)
    }
}

fn measure_all(sizes: &[usize], sets: &[Sets]) {
    print!("{:<13} {:<16}", "mode", "models");
    sizes.iter().for_each(|size| print!(" {size:>9}"));
    println!("  last : 1,000");
    let thousand = sizes.iter().position(|size| *size == 1_000).expect("1,000 is among the sizes");
    for mode in [Mode::Auto, Mode::RoundRobin, Mode::Metrics] {
        for sets in sets {
            let times: Vec<f64> = sizes.iter().map(|size| Fleet::new(mode, *size, *sets).measure()).collect();
            print!("{:<13} {:<16}", mode.as_str(), sets.name());
            times.iter().for_each(|time| print!(" {time:>9.2}"));
            println!("  {:>12.2}", times[times.len() - 1] / times[thousand]);
        }
    }
}

fn main() {
    println!("time of one grant and one release, in microseconds");
    measure_all(&SIZES, &[Sets::Common(1), Sets::Common(MODELS)]);
    println!("each endpoint with a set of models of its own");
    measure_all(&SIZES_OWN_SETS, &[Sets::OneSharedThreeOwn, Sets::FiftyOf200]);
    println!("a request for an API that one endpoint serves, or none");
    for size in SIZES_UNSERVED {
        let [one, none] = Fleet::new(Mode::Auto, size, Sets::Common(1)).measure_unserved(size);
        println!("{size:>6} endpoints: {one:.2} {none:.2}");
    }
}
