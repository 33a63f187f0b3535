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

    /// The endpoint answers a probe that was sent at this second.
    fn answered(mut self, id: u128, sent: u64) -> Self {
        let (id, sent) = (EndpointId(Uuid::from_u128(id)), Moment::from_micros(sent * 1_000_000));
        self.dispatcher.endpoint_answered(self.now(), id, sent, false, &mut self.decisions);
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

#[test]
fn free_endpoints_take_turns() {
    let story = Story::new(0).online(1, 2, &["m"]).online(2, 2, &["m"]).online(3, 1, &["x"]);
    story.submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9).submit(4, "m", 9).check("1@1 2@2 3@1 4@2");
}

#[test]
fn the_most_capable_is_chosen_as_long_as_it_has_a_slot() {
    let story = Story::choosing(Mode::Auto).scored(1, 9170).scored(2, 9850).online(3, 1, &["m"]);
    let story = story.submit(1, "m", 9).submit(2, "m", 9).end(1).submit(3, "m", 9).end(2).end(3);
    let story = story.report(2, 99.0, 0.0, 0).submit(4, "m", 9).submit(5, "m", 9).submit(6, "m", 9);
    story.check("1@2 2@1 3@2 4@1 5@3 6@2");
}

#[test]
fn who_has_just_failed_comes_last_until_it_serves_or_is_heard_of() {
    for mode in [Mode::Auto, Mode::Metrics, Mode::RoundRobin] {
        let story = || Story::choosing(mode).online(1, 1, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9).fail(1);
        story().submit(2, "m", 9).end(2).submit(3, "m", 9).end(3).check("1@1 2@2 3@2");
        let served = story().submit(2, "m", 9).submit(3, "m", 9).end(2).end_as(3, Outcome::Succeeded { tokens: None });
        served.submit(4, "m", 9).end(4).submit(5, "m", 9).check("1@1 2@2 3@1 4@2 5@1");
        let changed = story().submit(2, "m", 9).end(2).online(1, 1, &["m"]);
        changed.submit(3, "m", 9).check("1@1 2@2 3@2");
        let heard = story().submit(2, "m", 9).end(2).answered(1, 0);
        heard.submit(3, "m", 9).check("1@1 2@2 3@1");
        let busy = story().report(1, 90.0, 0.0, 0).report(2, 90.0, 0.0, 0);
        busy.submit(2, "m", 9).end(2).submit(3, "m", 9).check("1@1 2@2 3@2");
    }
    let blameless = Story::choosing(Mode::RoundRobin).online(1, 1, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9);
    let blameless = blameless.end_as(1, Outcome::Failed(Failure::Status(400))).submit(2, "m", 9).end(2);
    blameless.submit(3, "m", 9).check("1@1 2@2 3@1");
}

#[test]
fn who_fails_again_and_again_is_skipped_for_a_while_then_tried_with_one_request() {
    let mut story = Story::choosing(Mode::RoundRobin).online(1, 9, &["m"]).online(2, 2, &["m"]);
    for ticket in 1..=5 {
        story = story.submit(ticket, "m", 9);
    }
    // 1, 3 and 5 were granted on endpoint 1, which has slots left; the other is full.
    let story = story.fail(1).fail(3).fail(5).submit(6, "m", 9).end(2).submit(7, "m", 9).submit(8, "m", 9);
    let tried = story.wait(1).end_as(7, Outcome::Succeeded { tokens: None });
    tried.submit(9, "m", 9).check("1@1 2@2 3@1 4@2 5@1 6@2 7@1 8@1 9@1");
}

/// Returns a story in which endpoint 1 is skipped from second 0 on, after three failures, and the only slot of endpoint
/// 2 is taken.
fn skipped() -> Story {
    let mut story = Story::new(9).online(1, 9, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    for ticket in 3..=4 {
        story = story.submit(ticket, "m", 9);
    }
    let story = story.fail(1).fail(3).fail(4);
    assert_eq!(story.told, "1@1 2@2 3@1 4@1 ");
    Story { told: String::new(), ..story }
}

#[test]
fn the_first_byte_of_the_trial_requests_answer_ends_the_trial() {
    let story = skipped().submit(5, "m", 99).submit(6, "m", 99).submit(7, "m", 99).wait(1);
    story.begins(5).submit(8, "m", 9).check("5@1 6@1 7@1 8@1");
}

#[test]
fn a_probe_that_is_answered_ends_the_skipping_unless_the_failure_brought_it_about() {
    let trial_failed = || skipped().submit(5, "m", 99).submit(6, "m", 99).wait(1).fail(5);
    trial_failed().wait(1).answered(1, 1).check("5@1");
    trial_failed().wait(1).answered(1, 2).check("5@1 6@1");
    trial_failed().wait(1).online(1, 9, &["m"]).check("5@1");
}

#[test]
fn failures_are_forgotten_only_when_the_server_is_another() {
    let offline = || skipped().endpoint(1, 9, EndpointStatus::Offline, &["m"]).submit(5, "m", 9);
    offline().online(1, 9, &["m"]).wait(1).check("5@1");
    let mut story = offline();
    let target = Arc::new(story.targets[&1].redefined(&EndpointDefinition::new("1", "http://elsewhere")));
    let facts = EndpointFacts { target, ..facts(1, 9, EndpointStatus::Online, &["m"]) };
    story.dispatcher.change_endpoints(story.now(), vec![facts], Vec::new(), &mut story.decisions);
    story.tell();
    story.check("5@1");
}

#[test]
fn the_only_endpoint_of_a_model_is_never_skipped() {
    let mut story = Story::choosing(Mode::Auto).online(1, 1, &["m", "n"]).online(2, 1, &["n"]);
    for ticket in 1..=9 {
        story = story.submit(ticket, "m", 9).fail(ticket);
    }
    let story = story.submit(10, "n", 9).submit(11, "n", 9).submit(12, "m", 9);
    story.fail(12).end(10).check("1@1 2@1 3@1 4@1 5@1 6@1 7@1 8@1 9@1 10@2 12@1 11@2");
}

#[test]
fn when_all_are_busy_they_take_turns_whatever_their_score() {
    let mut story = Story::choosing(Mode::Auto).scored(1, 9000).scored(2, 5).online(3, 1, &["m"]);
    for id in 1..=3 {
        story = story.report(id, 81.0, 0.0, 0);
    }
    for ticket in 1..=9 {
        story = story.submit(ticket, "m", 9).end(ticket);
    }
    story.check("1@1 2@2 3@3 4@1 5@2 6@3 7@1 8@2 9@3");
}

#[test]
fn the_least_loaded_is_chosen_and_a_report_counts_at_once() {
    let story = Story::choosing(Mode::Metrics).online(1, 9, &["m"]).online(2, 9, &["m"]).online(3, 9, &["m"]);
    let story = story.report(1, 20.0, 30.0, 1).report(2, 70.0, 50.0, 5).submit(1, "m", 9).submit(2, "m", 9);
    let story = story.report(1, 20.0, 30.0, 13).submit(3, "m", 9).report(2, 81.0, 50.0, 9).submit(4, "m", 9);
    story.check("1@1 2@1 3@2 4@1");
}

#[test]
fn a_report_that_is_too_old_does_not_count() {
    let story = Story::choosing(Mode::Metrics).online(1, 9, &["m"]).online(2, 9, &["m"]).report(1, 0.0, 0.0, 0);
    let story = story.wait(119).submit(1, "m", 9).submit(2, "m", 9);
    story.wait(1).submit(3, "m", 9).submit(4, "m", 9).check("1@1 2@1 3@2 4@1");
}

#[test]
fn what_time_alone_changes_is_looked_at_again_only_when_that_is_due() {
    let balancing = Balancing { mode: Mode::Metrics, ranking_cache: Duration::from_secs(10), ..Balancing::default() };
    let mut story = Story::new(9);
    story.dispatcher = Dispatcher::new(story.dispatcher.rules, balancing);
    let story = story.online(1, 9, &["m"]).online(2, 9, &["m"]).report(1, 0.0, 0.0, 0);
    // The age of reports is checked 115 s after the report, and again 10 s later at the earliest.
    let story = story.wait(115).submit(1, "m", 9).wait(9).submit(2, "m", 9).wait(1).submit(3, "m", 9);
    story.check("1@1 2@1 3@2");
}

#[test]
fn the_smaller_part_of_slots_taken_comes_first() {
    let story = Story::choosing(Mode::Auto).online(1, 1, &["m"]).online(2, 4, &["m"]);
    let story = story.submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9).end(1).submit(4, "m", 9);
    story.submit(5, "m", 9).check("1@1 2@2 3@2 4@1 5@2");
}

#[test]
fn endpoints_that_serve_different_models_share_their_turns() {
    let story = Story::choosing(Mode::RoundRobin).online(1, 9, &["m", "n"]).online(2, 9, &["m"]);
    story.submit(1, "m", 9).submit(2, "n", 9).submit(3, "m", 9).submit(4, "m", 9).check("1@1 2@1 3@2 4@1");
}

#[test]
fn a_freed_slot_goes_to_the_first_it_can_serve() {
    let story = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["n"]).submit(1, "m", 9).submit(2, "n", 9);
    let story = story.submit(3, "n", 9).submit(4, "m", 9).submit(5, "m", 9);
    story.end(1).end(2).end(4).end(4).check("1@1 2@2 4@1 3@2 5@1");
}

#[test]
fn the_line_is_bounded_and_patience_too() {
    let story = Story::new(1).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 3).submit(3, "m", 9);
    story
        .wait(3)
        .submit(4, "m", 0)
        .check("1@1 3:QueueFull { estimated_wait: None } 2:QueueTimeout { waited: 3s } 4:QueueTimeout { waited: 0ns }");
}

#[test]
fn who_has_waited_too_long_is_not_served_by_a_slot_freed_at_the_same_moment() {
    let mut story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 3);
    story.seconds += 3;
    story.end(1).check("1@1 2:QueueTimeout { waited: 3s }");
}

#[test]
fn one_who_leaves_the_line_is_never_served() {
    let story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9);
    story.cancel(2).cancel(2).cancel(77).end(1).check("1@1 3@1");
}

#[test]
fn a_new_endpoint_serves_those_who_wait() {
    let story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9);
    story.online(2, 1, &["m"]).online(1, 2, &["m"]).check("1@1 2@2 3@1");
}

#[test]
fn fewer_slots_than_are_in_flight_grant_nothing_until_below() {
    let story = Story::new(9).online(1, 2, &["m"]).submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9);
    story.online(1, 1, &["m"]).end(1).end(2).check("1@1 2@1 3@1");
}

#[test]
fn without_hope_nobody_waits() {
    use EndpointStatus::{Error, Offline, Pending};
    Story::new(9).submit(1, "m", 9).check("1:ModelNotFound");
    Story::new(9)
        .endpoint(1, 1, Offline, &["m"])
        .submit(1, "m", 9)
        .submit(2, "x", 9)
        .check("1:NoEndpointOnline 2:ModelNotFound");
    let pending = || Story::new(9).endpoint(1, 1, Pending, &[]).submit(1, "m", 9);
    pending().online(1, 1, &["m"]).check("1@1");
    pending().online(1, 1, &["x"]).check("1:ModelNotFound");
    pending().endpoint(1, 1, Error, &[]).check("1:ModelNotFound");
    pending().gone(1).check("1:ModelNotFound");
    let busy = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    busy.endpoint(1, 1, Offline, &["m"]).end(1).check("1@1 2:NoEndpointOnline");
}

#[test]
fn endpoints_that_change_together_are_judged_together() {
    let mut story = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["n"]).submit(1, "m", 9).submit(2, "m", 9);
    let swapped = vec![facts(1, 1, EndpointStatus::Online, &["n"]), facts(2, 1, EndpointStatus::Online, &["m"])];
    story.dispatcher.change_endpoints(story.now(), swapped, Vec::new(), &mut story.decisions);
    story.tell();
    story.check("1@1 2@2");
}

#[test]
fn a_lease_outlives_its_endpoint() {
    let story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).gone(1).online(2, 1, &["m"]).submit(2, "m", 9);
    story.end(1).end(2).submit(3, "m", 9).check("1@1 2@2 3@2");
}

#[test]
fn draining_refuses_those_who_wait_and_those_who_come() {
    let mut story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9).submit(3, "m", 9);
    story.dispatcher.drain(story.now(), &mut story.decisions);
    story.tell();
    story.end(1).submit(4, "m", 9).check("1@1 2:Draining 3:Draining 4:Draining");
}

#[test]
fn clients_take_turns() {
    let mut story = Story::new(9).online(1, 1, &["m"]).submit_as("x", 0, "m", 9);
    for (client, ticket) in [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 11), ("b", 12)] {
        story = story.submit_as(client, ticket, "m", 9);
    }
    for ended in [0, 1, 11, 2, 12, 3, 4, 5] {
        story = story.end(ended);
    }
    story.check("0@1 1@1 11@1 2@1 12@1 3@1 4@1 5@1");
}

#[test]
fn only_the_client_that_is_served_loses_its_turn() {
    let story = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["n"]).submit(1, "m", 9).submit(2, "n", 9);
    let story = story.submit_as("a", 3, "m", 9).submit_as("a", 4, "m", 9).submit_as("b", 5, "n", 9);
    let story = story.submit_as("b", 6, "m", 9).submit_as("c", 7, "n", 9).submit_as("c", 8, "m", 9);
    // The slot for n passes over a, which stays first for m; b then waits behind c.
    story.end(2).end(1).end(3).end(8).end(4).check("1@1 2@2 5@2 3@1 8@1 6@1");
}

#[test]
fn a_delayed_request_joins_the_line_behind_those_who_came_meanwhile() {
    let mut story = Story::with_thresholds(4, 0.5, 0.8).online(1, 1, &["m"]);
    for ticket in 1..=5 {
        story = story.submit(ticket, "m", 9);
    }
    assert_eq!(story.dispatcher.waiting(), 4, "delayed requests count as waiting");
    // The fifth is delayed by more than a second; the sixth finds the line nearly empty and is not.
    let story = story.cancel(2).cancel(3).cancel(4).submit(6, "m", 9);
    story.end(1).end(6).check("1@1 6@1 5@1");
}

#[test]
fn a_delay_that_has_ended_is_an_ordinary_place_in_the_line() {
    let story = Story::with_thresholds(4, 0.5, 0.8).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    let story = story.submit(3, "m", 9).submit(4, "m", 9).cancel(2).cancel(3).wait(1).submit(5, "m", 9);
    story.end(1).end(4).check("1@1 4@1 5@1");
}

#[test]
fn a_delay_ends_early_when_a_slot_would_stay_free() {
    let story = Story::with_thresholds(3, 0.0, 1.0).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    story.end(1).check("1@1 2@1");
}

#[test]
fn the_checks_come_in_order_full_then_admission_then_patience() {
    let story = Story::with_thresholds(5, 1.0, 0.8).online(1, 1, &["m"]).submit(1, "m", 9);
    let story = story.submit(2, "m", 9).submit(3, "m", 9).submit(4, "m", 0).submit(5, "m", 9).submit(6, "m", 9);
    story.submit(7, "m", 0).check("1@1 4:QueueTimeout { waited: 0ns } 7:Overloaded { estimated_wait: None }");
}

#[test]
fn a_deadline_comes_before_the_end_of_a_delay() {
    let story = Story::with_thresholds(1, 0.0, 0.0).online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 1);
    story.wait(1).wait(9).end(1).check("1@1 2:QueueTimeout { waited: 1s }");
}

#[test]
fn one_who_waits_for_a_loading_endpoint_is_served_when_it_is_ready() {
    use EndpointStatus::Loading;
    let story = || Story::new(2).endpoint(1, 1, Loading, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    story().wait(3).online(1, 1, &["m"]).end(1).check("1@1 2@1");
    story().submit(3, "m", 9).submit(4, "x", 9).check("3:QueueFull { estimated_wait: None } 4:ModelNotFound");
    story().wait(4).check("1:WarmingUp 2:WarmingUp");
    story().endpoint(1, 1, EndpointStatus::Offline, &["m"]).check("1:NoEndpointOnline 2:NoEndpointOnline");
    let unknown_models = Story::new(2).endpoint(1, 1, Loading, &[]).submit(1, "m", 9).submit(2, "x", 9);
    unknown_models.online(1, 1, &["m"]).check("2:ModelNotFound 1@1");
}

#[test]
fn nobody_waits_for_a_loading_endpoint_beyond_the_deadline_or_while_another_serves() {
    use EndpointStatus::Loading;
    let story = || Story::new(9).endpoint(1, 1, Loading, &["m"]);
    story().submit(1, "m", 3).wait(3).check("1:QueueTimeout { waited: 3s }");
    story().submit(1, "m", 0).check("1:QueueTimeout { waited: 0ns }");
    let served = story().online(2, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9).wait(5);
    served.end(1).check("1@2 2@2");
}

#[test]
fn an_endpoint_that_loads_again_is_waited_for_from_then_on() {
    let busy = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 99).submit(2, "m", 99).submit_as("b", 3, "m", 99);
    let loading = busy.wait(50).endpoint(1, 1, EndpointStatus::Loading, &["m"]).wait(3);
    loading.end(1).online(1, 1, &["m"]).end(2).check("1@1 2@1 3@1");
}

#[test]
fn without_patience_for_loading_nobody_waits_for_it() {
    use EndpointStatus::Loading;
    let mut story = Story::new(9);
    story.dispatcher.rules.warm_up = Duration::ZERO;
    let story = story.online(1, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    story.endpoint(1, 1, Loading, &["m"]).submit(3, "m", 9).check("1@1 2:WarmingUp 3:WarmingUp");
}

#[test]
fn a_failed_attempt_ends_its_request_only_if_no_untried_endpoint_can_serve_it() {
    let lost = || Failure::ConnectionLost("reset".to_owned());
    let story = || Story::new(9).online(1, 1, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9).retry(1, lost(), 2, 9);
    story().retry(2, lost(), 3, 9).check("1@1 2@2 2(last) 3:NothingUntried { estimated_wait: None }");
    story().end(2).retry(2, lost(), 3, 9).check("1@1 2@2 ended before");
    let busy = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9).submit(2, "m", 9);
    busy.retry(1, lost(), 3, 4).wait(4).check("1@1 2@2 3:QueueTimeout { waited: 4s }");
}

#[test]
fn the_verdict_on_a_server_error_comes_with_the_next_attempt() {
    let story = || {
        let story = Story::choosing(Mode::RoundRobin).online(1, 1, &["m"]).online(2, 1, &["m"]).submit(1, "m", 9);
        story.retry(1, Failure::Status(500), 2, 9)
    };
    let blamed = |mut story: Story| story.dispatcher.take_blamed().len();
    assert_eq!(blamed(story()), 0, "not yet known");
    let served = || story().end_as(2, Outcome::Succeeded { tokens: None });
    assert_eq!(blamed(served()), 1);
    served().submit(3, "m", 9).end(3).submit(4, "m", 9).check("1@1 2@2 3@2 4@2");
    let repeated = || story().end_as(2, Outcome::Failed(Failure::Status(502)));
    assert_eq!(blamed(repeated()), 0);
    repeated().submit(3, "m", 9).end(3).submit(4, "m", 9).check("1@1 2@2 3@1 4@2");
    assert_eq!(blamed(story().end(2)), 0, "its client has left");
    assert_eq!(blamed(story().retry(2, Failure::Unreachable("refused".to_owned()), 3, 9)), 2, "nobody is left");
}
