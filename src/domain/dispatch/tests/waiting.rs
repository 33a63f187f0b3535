//! Who waits, for how long, and who is served next.

use super::*;

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
fn nobody_waits_for_an_endpoint_that_lists_its_models_and_may_serve_none_of_them() {
    for status in [EndpointStatus::Pending, EndpointStatus::Loading] {
        let mut story = Story::new(2);
        let facts = EndpointFacts { may_serve_any: false, ..facts(1, 1, status, &[]) };
        story.dispatcher.change_endpoints(story.now(), vec![facts], Vec::new(), &mut story.decisions);
        story.submit(1, "m", 9).check("1:ModelNotFound");
    }
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
