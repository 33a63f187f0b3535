//! What the limits of keys do to requests, and which requests wait while others pass them.

use super::*;
use crate::domain::ids::KeyId;
use crate::domain::keys::KeyLimits;
use crate::domain::request::TokenCount;

fn key(number: u128) -> KeyId {
    KeyId(Uuid::from_u128(number))
}

fn at_once(max: u64) -> KeyLimits {
    KeyLimits { max_concurrency: Some(max), ..KeyLimits::default() }
}

impl Story {
    fn keyed(mut self, number: u128, limits: KeyLimits) -> Self {
        self.dispatcher.change_keys(self.now(), vec![(key(number), limits)], Vec::new(), &mut self.decisions);
        self.tell();
        self
    }

    fn revoked(mut self, number: u128) -> Self {
        self.dispatcher.change_keys(self.now(), Vec::new(), vec![key(number)], &mut self.decisions);
        self.tell();
        self
    }

    /// A request of a client of a key comes, with a body of 400 bytes.
    fn ask_as(mut self, number: u128, name: &str, ticket: u64, model: &str, patience_secs: u64) -> Self {
        let client = ClientId::NamedByKey(key(number), name.as_bytes().into());
        let request = LeaseRequest::new(RequestId::from("r"), model.into(), ApiKind::ChatCompletions, client);
        let (request, deadline) =
            (request.with_key(key(number), "k".into(), 400), self.now().after(Duration::from_secs(patience_secs)));
        let now = self.now();
        let submitted = self.dispatcher.submit(now, Ticket(ticket), request.into(), deadline, &mut self.decisions);
        self.tell();
        match submitted {
            Submitted::Granted(grant) => self.granted(Ticket(ticket), &grant),
            Submitted::Refused(Refusal::RateLimitExceeded { limit, retry_after, .. }) => {
                let _ = write!(self.told, "{ticket}:{}:{} ", limit.as_str(), retry_after.as_secs());
            }
            Submitted::Refused(refusal) => self.refused(Ticket(ticket), &refusal),
            Submitted::Waiting => {}
        }
        self
    }

    fn ask(self, number: u128, ticket: u64) -> Self {
        self.ask_as(number, "", ticket, "m", 9)
    }

    fn succeed(self, ticket: u64, input: Option<u64>, output: u64) -> Self {
        let tokens = Some(TokenCount { input, output, estimated: false });
        self.end_as(ticket, Outcome::Succeeded { tokens })
    }
}

#[test]
fn of_a_hundred_requests_of_a_capped_key_three_run_at_once_while_another_key_uses_the_other_slots() {
    let mut story = Story::new(1000).online(1, 4, &["m"]).online(2, 4, &["m"]).keyed(1, at_once(3));
    let (capped, other) = (1..=100_u64, 101..=200_u64);
    for ticket in capped.clone() {
        story = story.ask(1, ticket);
        story = story.ask(2, ticket + 100);
    }
    let running = |story: &Story, tickets: &std::ops::RangeInclusive<u64>| {
        let held = story
            .leases
            .iter()
            .filter(|(ticket, lease)| tickets.contains(*ticket) && story.dispatcher.leases.contains_key(lease));
        held.count()
    };
    let mut peak = 0;
    while story.dispatcher.active() > 0 {
        let now = (running(&story, &capped), running(&story, &other));
        peak = peak.max(now.0);
        assert!(now.0 + now.1 == 8 || now.1 < 5, "{now:?}");
        let first = *story.leases.iter().min_by_key(|(_, lease)| **lease).expect("active").0;
        story = story.end(first);
        story.leases.remove(&first);
    }
    assert_eq!(peak, 3);
    assert_eq!(story.told.split_whitespace().count(), 200, "every request is served");
}

#[test]
fn a_capped_key_takes_part_again_in_its_turn_when_one_of_its_leases_ends() {
    let story = || Story::new(9).online(1, 1, &["m"]).keyed(1, at_once(1)).ask(1, 1).ask(1, 2).submit(3, "m", 9);
    story().end(1).end(2).check("1@1 2@1 3@1");
    // Another client comes first in the ring.
    let story = Story::new(9).online(1, 1, &["m"]).keyed(1, at_once(1)).ask(1, 1).submit(3, "m", 9).ask(1, 2);
    story.end(1).end(3).check("1@1 3@1 2@1");
}

#[test]
fn the_next_request_of_a_capped_key_goes_to_any_endpoint_that_is_free() {
    let story = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["n"]).keyed(1, at_once(1));
    let story = story.ask(1, 1).ask_as(1, "a", 2, "n", 9).ask_as(1, "b", 3, "m", 9).submit(4, "m", 9);
    // Endpoint 2 has been free all the time.
    story.end(1).check("1@1 2@2 4@1");
}

#[test]
fn the_best_endpoint_is_chosen_for_a_request_that_waited_for_its_key() {
    let story = Story::new(9).scored(1, 5).scored(2, 9).scored(3, 7).keyed(1, at_once(1)).ask(1, 1).ask(1, 2);
    let story = story.end(1).ask(1, 3).submit(4, "m", 9);
    story.end(2).check("1@2 2@2 4@3 3@2");
}

#[test]
fn clients_of_a_capped_key_keep_their_turns() {
    let mut story = Story::new(99).online(1, 3, &["m"]).keyed(1, at_once(1)).ask_as(1, "a", 0, "m", 9);
    for (name, ticket) in [("a", 1), ("a", 2), ("b", 11), ("b", 12), ("c", 21)] {
        story = story.ask_as(1, name, ticket, "m", 9);
    }
    for ended in [0, 1, 11, 21, 2, 12] {
        story = story.end(ended);
    }
    story.check("0@1 1@1 11@1 21@1 2@1 12@1");
}

#[test]
fn a_raised_cap_serves_at_once_and_a_lowered_one_grants_nothing_until_below() {
    let story = || Story::new(9).online(1, 4, &["m"]).keyed(1, at_once(1)).ask(1, 1).ask(1, 2).ask(1, 3).ask(1, 4);
    story().keyed(1, at_once(2)).check("1@1 2@1");
    story().keyed(1, KeyLimits::default()).check("1@1 2@1 3@1 4@1");
    story().revoked(1).check("1@1 2@1 3@1 4@1");
    story().keyed(1, at_once(3)).keyed(1, at_once(1)).end(1).end(2).ask(1, 5).end(3).check("1@1 2@1 3@1 4@1");
    let capped_while_waiting = Story::new(9).online(1, 1, &["m"]).submit(0, "m", 9).ask(1, 1).ask(1, 2);
    capped_while_waiting.keyed(1, at_once(1)).online(1, 4, &["m"]).end(1).check("0@1 1@1 2@1");
}

#[test]
fn a_retry_obeys_the_cap_and_comes_before_the_waiting_requests_of_its_key() {
    let lost = || Failure::ConnectionLost("reset".to_owned());
    let story = Story::new(9).online(1, 2, &["m"]).online(2, 2, &["m"]).keyed(1, at_once(1)).ask(1, 1).ask(1, 2);
    let story = story.retry(1, lost(), 3, 9);
    story.end(3).check("1@1 3@2 2@2");
    // No endpoint is free for the retry, so that another request of the key may go on.
    let busy = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["m"]).keyed(1, at_once(1)).ask(1, 1).ask(1, 2);
    let busy = busy.submit(4, "m", 9).retry(1, lost(), 3, 9);
    busy.end(4).end(2).check("1@1 4@2 2@1 3@2");
}

#[test]
fn a_retry_of_a_capped_key_goes_on_while_leaseway_stops() {
    let mut story = Story::new(9).online(1, 1, &["m"]).online(2, 1, &["m"]).keyed(1, at_once(1)).ask(1, 1).ask(1, 2);
    story.dispatcher.drain(story.now(), &mut story.decisions);
    story.tell();
    story.retry(1, Failure::Unreachable("refused".to_owned()), 3, 9).check("1@1 2:Draining 3@2");
}

#[test]
fn the_bound_of_a_key_holds_for_its_waiting_requests_only() {
    let limits = KeyLimits { max_waiting: Some(1), ..at_once(1) };
    let story = Story::new(9).online(1, 2, &["m"]).keyed(1, limits).ask(1, 1).ask(1, 2).ask_as(1, "a", 3, "m", 9);
    let story = story.submit(4, "m", 9).submit(5, "m", 9).ask(1, 6).cancel(2).ask(1, 7);
    let full = "KeyQueueFull { max_waiting: 1, estimated_wait: None }";
    story.end(1).check(&format!("1@1 3:{full} 4@1 6:{full} 5@1"));
}

#[test]
fn what_is_refused_or_leaves_the_line_costs_nothing() {
    let limited = |max| KeyLimits { requests_per_minute: Some(max), ..KeyLimits::default() };
    let story = || Story::new(1).keyed(1, limited(2)).online(1, 1, &["m"]).ask(1, 1);
    story().ask(1, 2).ask(1, 3).check("1@1 3:requests_per_minute:30");
    story().ask(1, 2).cancel(2).ask(1, 4).ask(1, 5).check("1@1 5:requests_per_minute:30");
    story().ask_as(1, "", 2, "unknown", 9).ask(1, 3).ask(1, 4).check("1@1 2:ModelNotFound 4:requests_per_minute:30");
    story()
        .submit(2, "m", 9)
        .ask(1, 3)
        .end(1)
        .ask(1, 4)
        .ask(1, 5)
        .check("1@1 3:QueueFull { estimated_wait: None } 2@1 5:requests_per_minute:30");
    story()
        .ask_as(1, "", 2, "m", 1)
        .wait(1)
        .ask(1, 3)
        .ask(1, 4)
        .check("1@1 2:QueueTimeout { waited: 1s } 4:requests_per_minute:29");
    let offline = story().ask(1, 2).endpoint(1, 1, EndpointStatus::Offline, &["m"]).online(1, 1, &["m"]);
    offline.ask(1, 3).ask(1, 4).check("1@1 2:NoEndpointOnline 4:requests_per_minute:30");
    // A request that is tried again counts once.
    let lost = || Failure::ConnectionLost("reset".to_owned());
    let tried = story().online(2, 1, &["m"]).retry(1, lost(), 2, 9).retry(2, lost(), 3, 9);
    tried
        .ask(1, 4)
        .ask(1, 5)
        .check("1@1 2@2 2(last) 3:NothingUntried { estimated_wait: None } 4@1 5:requests_per_minute:30");
}

#[test]
fn tokens_are_a_quarter_of_the_bytes_and_then_what_was_used() {
    let limited = KeyLimits { tokens_per_minute: Some(240), ..KeyLimits::default() };
    let story = || Story::new(9).keyed(1, limited).online(1, 9, &["m"]);
    story().ask(1, 1).ask(1, 2).ask(1, 3).ask(1, 4).check("1@1 2@1 3@1 4:tokens_per_minute:15");
    story().ask(1, 1).succeed(1, Some(100), 200).ask(1, 2).check("1@1 2:tokens_per_minute:15");
    story().ask(1, 1).succeed(1, None, 200).ask(1, 2).check("1@1 2:tokens_per_minute:15");
    story().ask(1, 1).succeed(1, Some(20), 10).ask(1, 2).ask(1, 3).ask(1, 4).check("1@1 2@1 3@1 4@1");
    story()
        .ask(1, 1)
        .end(1)
        .ask(1, 2)
        .fail(2)
        .ask(1, 3)
        .end_as(3, Outcome::Succeeded { tokens: None })
        .ask(1, 4)
        .check("1@1 2@1 3@1 4:tokens_per_minute:15");
}

#[test]
fn the_wait_of_a_capped_key_is_estimated_by_its_own_leases() {
    let mut story = Story::new(99).online(1, 4, &["m"]).keyed(1, at_once(2)).submit(0, "m", 9);
    story.seconds = 10;
    story = story.end_as(0, Outcome::Succeeded { tokens: None }).ask(1, 1).ask(1, 2).ask(1, 3).ask(1, 4).ask(1, 5);
    let outlook = |story: &Story, ticket| {
        let Queued { position, estimated_wait } = story.dispatcher.outlook(Ticket(ticket)).expect("it waits");
        (position, estimated_wait.map(|wait| wait.as_secs()))
    };
    assert_eq!(outlook(&story, 5), (3, Some(15)), "three times ten seconds on two leases");
    // Others pass the requests of the key.
    story = story.submit(6, "m", 9).submit(7, "m", 9).submit(8, "m", 9);
    assert_eq!((outlook(&story, 8), outlook(&story, 5)), ((1, Some(3)), (3, Some(15))));
}
