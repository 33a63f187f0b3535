//! What a grant from the line costs, and joining it, with 10, 1,000 and 100,000 waiting requests of 1,000 clients for 50
//! models.
//!
//! One grant = a lease ends, the line finds whom its slot serves next, and grants. A new request then joins and learns its
//! position, so that the line stays as long as it is. `cargo bench --bench line`.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leaseway::config;
use leaseway::domain::dispatch::admission::Admission;
use leaseway::domain::dispatch::{Decision, Dispatcher, QueueRules, Submitted};
use leaseway::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus};
use leaseway::domain::ids::{ClientId, EndpointId, LeaseId, ModelId, RequestId, Ticket};
use leaseway::domain::request::{ApiKind, LeaseEnd, LeaseRequest, Outcome};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

const CLIENTS: u32 = 1000;
const MODELS: usize = 50;
const GRANTS: u32 = 200_000;

struct Line {
    dispatcher: Dispatcher,
    random: StdRng,
    models: Vec<ModelId>,
    now: Moment,
    next_ticket: u64,
}

impl Line {
    /// Returns a line of `waiting` requests and the leases held.
    fn new(waiting: u64, models_per_endpoint: usize) -> (Self, Vec<LeaseId>) {
        let models: Vec<ModelId> =
            (0..MODELS).map(|number| ModelId::from(format!("model-{number}").as_str())).collect();
        let admission = Admission { delay_threshold: 1.0, reject_threshold: 1.0, max_delay: Duration::ZERO };
        let mut line = Self {
            dispatcher: Dispatcher::new(
                QueueRules { max_waiting: 1_000_000, admission, warm_up: Duration::ZERO },
                config::load(None, &[]).expect("the defaults").0.balancer.balancing(),
            ),
            random: StdRng::seed_from_u64(1),
            models,
            now: Moment::from_micros(1),
            next_ticket: 0,
        };
        for (number, served) in line.models.clone().chunks(models_per_endpoint).enumerate() {
            let definition = EndpointDefinition::new(number.to_string(), format!("http://{number}"));
            let facts = EndpointFacts {
                target: Arc::new(Target::new(EndpointId(Uuid::from_u128(number as u128)), &definition)),
                max_concurrency: 1,
                capability_score: None,
                models: Arc::new(served.iter().cloned().collect::<BTreeSet<_>>()),
                may_serve_any: false,
                status: EndpointStatus::Online,
            };
            line.dispatcher.change_endpoints(line.now, vec![facts], Vec::new(), &mut Vec::new());
        }
        let mut held = Vec::new();
        while held.len() < MODELS / models_per_endpoint {
            let model = line.models[held.len() * models_per_endpoint].clone();
            held.extend(line.submit(model));
        }
        while (line.dispatcher.waiting() as u64) < waiting {
            let model = line.models[line.random.random_range(0..MODELS)].clone();
            line.submit(model);
        }
        (line, held)
    }

    fn submit(&mut self, model: ModelId) -> Option<LeaseId> {
        let client = ClientId::Address(self.random.random_range(0..CLIENTS).to_be_bytes().into());
        let request = LeaseRequest::new(RequestId::from("r"), model, ApiKind::ChatCompletions, client);
        let deadline = self.now.after(Duration::from_secs(1_000_000));
        self.next_ticket += 1;
        match self.dispatcher.submit(self.now, Ticket(self.next_ticket), request.into(), deadline, &mut Vec::new()) {
            Submitted::Granted(grant) => Some(grant.lease),
            Submitted::Waiting => None,
            Submitted::Refused(refusal) => panic!("{refusal:?}"),
        }
    }
}

/// Returns the mean times of a grant and of joining, in microseconds.
fn measure(waiting: u64, models_per_endpoint: usize) -> (f64, f64) {
    let (mut line, mut held) = Line::new(waiting, models_per_endpoint);
    let (mut granting, mut joining) = (Duration::ZERO, Duration::ZERO);
    let mut decisions = Vec::new();
    let mut granted = 0;
    while granted < GRANTS {
        let lease = held.remove(0);
        let started = Instant::now();
        let ended = line.dispatcher.end(line.now, LeaseEnd::new(lease, Outcome::Abandoned), &mut decisions);
        let took = started.elapsed();
        let model = ended.expect("it was held").request.model.clone();
        match black_box(decisions.pop()) {
            Some(Decision::Grant(_, grant)) => {
                (granting, granted) = (granting + took, granted + 1);
                held.push(grant.lease);
                let model =
                    if models_per_endpoint == 1 { model } else { line.models[granted as usize % MODELS].clone() };
                let started = Instant::now();
                line.submit(model);
                joining += started.elapsed();
            }
            Some(Decision::Refuse(..)) => panic!("nothing expires here"),
            None => held.extend(line.submit(model)),
        }
    }
    let mean = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(GRANTS);
    (mean(granting), mean(joining))
}

fn main() {
    println!("{:>10} {:>28} {:>28}", "", "1 model per endpoint", "50 models per endpoint");
    println!("{:>10} {:>14} {:>13} {:>14} {:>13}", "waiting", "grant", "join", "grant", "join");
    for waiting in [10, 1_000, 100_000] {
        let [(grant, join), (grant_50, join_50)] = [1, MODELS].map(|models| measure(waiting, models));
        println!("{waiting:>10} {grant:>11.2} µs {join:>10.2} µs {grant_50:>11.2} µs {join_50:>10.2} µs");
    }
}
