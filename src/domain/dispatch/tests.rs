mod apis;
mod attempts;
mod choosing;
mod keys;
mod waiting;

use std::collections::BTreeSet;
use std::fmt::Write;

use uuid::Uuid;

use super::choose::Mode;
use super::*;
use crate::domain::endpoint::{EndpointDefinition, EndpointStatus};
use crate::domain::ids::{ClientId, ModelId, RequestId};
use crate::domain::request::ApiKind;

fn facts(id: u128, slots: u32, status: EndpointStatus, models: &[&str]) -> EndpointFacts {
    let definition = EndpointDefinition::new(id.to_string(), format!("http://{id}"));
    EndpointFacts {
        target: Arc::new(Target::new(EndpointId(Uuid::from_u128(id)), &definition)),
        max_concurrency: slots,
        capability_score: None,
        models: Arc::new(models.iter().map(|model| ModelId::from(*model)).collect::<BTreeSet<_>>()),
        // An endpoint is listed without models only before they are known.
        may_serve_any: models.is_empty(),
        status,
    }
}

/// A dispatcher and the record of its decisions. `3@1` means that ticket 3 was granted on endpoint 1.
struct Story {
    dispatcher: Dispatcher,
    seconds: u64,
    decisions: Vec<Decision>,
    told: String,
    leases: HashMap<u64, LeaseId>,
    targets: HashMap<u128, Arc<Target>>,
}

impl Story {
    /// Returns a story whose line delays and refuses no request before it is full.
    fn new(max_waiting: usize) -> Self {
        Self::with_thresholds(max_waiting, 1.0, 1.0)
    }

    fn with_thresholds(max_waiting: usize, delay_threshold: f64, reject_threshold: f64) -> Self {
        let admission = Admission { delay_threshold, reject_threshold, max_delay: Duration::from_secs(2) };
        Self {
            dispatcher: Dispatcher::new(
                QueueRules { max_waiting, admission, warm_up: Duration::from_secs(4) },
                Balancing::default(),
            ),
            seconds: 0,
            decisions: Vec::new(),
            told: String::new(),
            leases: HashMap::new(),
            targets: HashMap::new(),
        }
    }

    /// Returns a story whose dispatcher chooses in this mode.
    fn choosing(mode: Mode) -> Self {
        let mut story = Self::new(9);
        story.dispatcher = Dispatcher::new(story.dispatcher.rules, Balancing { mode, ..Balancing::default() });
        story
    }

    /// Lets an endpoint report CPU and memory in percent, and active requests.
    fn report(mut self, id: u128, cpu: f64, memory: f64, active: u32) -> Self {
        let report = LoadReport {
            cpu_usage: Some(cpu),
            memory_usage: Some(memory),
            active_requests: Some(active),
            ..LoadReport::default()
        };
        self.dispatcher.report_load(EndpointId(Uuid::from_u128(id)), report, self.now());
        self
    }

    fn scored(mut self, id: u128, score: u32) -> Self {
        let facts = EndpointFacts { capability_score: Some(score), ..facts(id, 1, EndpointStatus::Online, &["m"]) };
        self.dispatcher.change_endpoints(self.now(), vec![facts], Vec::new(), &mut self.decisions);
        self
    }

    fn now(&self) -> Moment {
        Moment::from_micros(self.seconds * 1_000_000)
    }

    fn granted(&mut self, ticket: Ticket, grant: &Grant) {
        self.leases.insert(ticket.0, grant.lease);
        let _ = write!(self.told, "{}@{} ", ticket.0, grant.target.name);
    }

    fn refused(&mut self, ticket: Ticket, refusal: &Refusal) {
        let _ = write!(self.told, "{}:{refusal:?} ", ticket.0);
    }

    fn tell(&mut self) {
        for decision in std::mem::take(&mut self.decisions) {
            match decision {
                Decision::Grant(ticket, grant) => self.granted(ticket, &grant),
                Decision::Refuse(ticket, refusal) => self.refused(ticket, &refusal),
            }
        }
    }

    fn endpoint(mut self, id: u128, slots: u32, status: EndpointStatus, models: &[&str]) -> Self {
        let mut facts = facts(id, slots, status, models);
        facts.target = self.targets.entry(id).or_insert(facts.target).clone();
        self.dispatcher.change_endpoints(self.now(), vec![facts], Vec::new(), &mut self.decisions);
        self.tell();
        self
    }

    fn online(self, id: u128, slots: u32, models: &[&str]) -> Self {
        self.endpoint(id, slots, EndpointStatus::Online, models)
    }

    /// Gives an endpoint another server.
    fn moved(mut self, id: u128, slots: u32, models: &[&str]) -> Self {
        let target = &self.targets[&id];
        let elsewhere = EndpointDefinition::new(target.name.clone(), "http://elsewhere");
        let target = Arc::new(target.redefined(&elsewhere));
        self.targets.insert(id, target);
        self.online(id, slots, models)
    }

    /// The endpoint answers a probe that was sent at this second.
    fn answered(mut self, id: u128, sent: u64) -> Self {
        let (id, sent) = (EndpointId(Uuid::from_u128(id)), Moment::from_micros(sent * 1_000_000));
        self.dispatcher.endpoint_answered(self.now(), id, sent, false, &mut self.decisions);
        self.tell();
        self
    }

    /// The endpoint answers a probe that the operator asked for.
    fn synced(mut self, id: u128) -> Self {
        let (id, now) = (EndpointId(Uuid::from_u128(id)), self.now());
        self.dispatcher.endpoint_answered(now, id, now, true, &mut self.decisions);
        self.tell();
        self
    }

    /// The first byte of a good answer to the request of this ticket comes.
    fn begins(mut self, ticket: u64) -> Self {
        self.dispatcher.answer_began(self.now(), self.leases[&ticket], &mut self.decisions);
        self.tell();
        self
    }

    fn gone(mut self, id: u128) -> Self {
        let gone = vec![EndpointId(Uuid::from_u128(id))];
        self.dispatcher.change_endpoints(self.now(), Vec::new(), gone, &mut self.decisions);
        self.tell();
        self
    }

    fn submit(self, ticket: u64, model: &str, patience_secs: u64) -> Self {
        self.submit_as("client", ticket, model, patience_secs)
    }

    fn submit_as(mut self, client: &str, ticket: u64, model: &str, patience_secs: u64) -> Self {
        let request = LeaseRequest::new(
            RequestId::from("r"),
            ModelId::from(model),
            ApiKind::ChatCompletions,
            ClientId::Named(client.as_bytes().into()),
        );
        let deadline = self.now().after(Duration::from_secs(patience_secs));
        let submitted =
            self.dispatcher.submit(self.now(), Ticket(ticket), request.into(), deadline, &mut self.decisions);
        self.tell();
        match submitted {
            Submitted::Granted(grant) => self.granted(Ticket(ticket), &grant),
            Submitted::Refused(refusal) => self.refused(Ticket(ticket), &refusal),
            Submitted::Waiting => {}
        }
        self
    }

    fn end(self, ticket: u64) -> Self {
        self.end_as(ticket, Outcome::Abandoned)
    }

    fn end_as(mut self, ticket: u64, outcome: Outcome) -> Self {
        let lease = self.leases.get(&ticket).copied().unwrap_or(LeaseId(u64::MAX));
        self.dispatcher.end(self.now(), LeaseEnd::new(lease, outcome), &mut self.decisions);
        self.tell();
        self
    }

    fn fail(self, ticket: u64) -> Self {
        self.end_as(ticket, Outcome::Failed(Failure::Status(500)))
    }

    /// Goes on, as ticket `next`, after the attempt of `ticket` has failed; `(last)` marks an attempt that ended its
    /// request.
    fn retry(mut self, ticket: u64, failure: Failure, next: u64, patience_secs: u64) -> Self {
        let failed = LeaseEnd::new(self.leases[&ticket], Outcome::Failed(failure));
        let deadline = self.now().after(Duration::from_secs(patience_secs));
        let retried = self.dispatcher.retry(self.now(), Ticket(next), failed, deadline, &mut self.decisions);
        self.tell();
        let Some(Retried { ended, request, submitted }) = retried else {
            self.told += "ended before ";
            return self;
        };
        assert_eq!((ended.request.attempt() + 1, request.attempt()), (request.attempt(), request.tried.len() + 1));
        if ended.is_final {
            let _ = write!(self.told, "{ticket}(last) ");
        }
        match submitted {
            Submitted::Granted(grant) => self.granted(Ticket(next), &grant),
            Submitted::Refused(refusal) => self.refused(Ticket(next), &refusal),
            Submitted::Waiting => {}
        }
        self
    }

    fn cancel(mut self, ticket: u64) -> Self {
        self.dispatcher.cancel(self.now(), Ticket(ticket), &mut self.decisions);
        self.tell();
        self
    }

    fn wait(mut self, seconds: u64) -> Self {
        self.seconds += seconds;
        self.dispatcher.expire(self.now(), &mut self.decisions);
        self.tell();
        self
    }

    fn check(self, expected: &str) {
        assert_eq!(self.told.trim_end(), expected);
    }
}
