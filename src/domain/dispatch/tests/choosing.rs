//! Which endpoint is chosen, and which is skipped.

use super::*;

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
fn a_trial_that_another_endpoint_decides_about_ends_with_its_lease() {
    let story = skipped().submit(5, "m", 99).submit(6, "m", 99).wait(1).retry(5, Failure::Status(500), 7, 99);
    story.wait(1).end(2).check("5@1 6@1 7@2");
}

#[test]
fn a_verdict_counts_from_the_time_of_the_failure() {
    let failed_thrice = || {
        let mut story = Story::choosing(Mode::RoundRobin).online(1, 9, &["m"]);
        for ticket in 1..=3 {
            story = story.submit(ticket, "m", 9);
        }
        let mut story = story.online(2, 3, &["m"]);
        for ticket in 1..=3 {
            story = story.retry(ticket, Failure::Status(500), 10 + ticket, 9);
        }
        assert_eq!(story.told, "1@1 2@1 3@1 11@2 12@2 13@2 ");
        Story { told: String::new(), ..story }
    };
    let mut served = failed_thrice().wait(1).submit(4, "m", 9).end_as(4, Outcome::Succeeded { tokens: None });
    served = served.begins(11).begins(12).begins(13).end(11).end(12);
    assert!(served.dispatcher.take_blamed().is_empty(), "endpoint 1 has served a newer request");
    served.submit(5, "m", 9).submit(6, "m", 9).check("4@1 5@2 6@1");
    let mut silent = failed_thrice().begins(11).begins(12).begins(13);
    assert_eq!(silent.dispatcher.take_blamed().len(), 3);
    silent.submit(4, "m", 0).check("4:QueueTimeout { waited: 0ns }");
    let late = failed_thrice().wait(4).begins(11).begins(12).begins(13);
    late.submit(4, "m", 0).submit(5, "m", 0).check("4@1 5:QueueTimeout { waited: 0ns }");
}

#[test]
fn a_success_of_a_request_that_is_older_than_the_failure_proves_nothing() {
    let success = || Outcome::Succeeded { tokens: None };
    let story = Story::choosing(Mode::RoundRobin).online(1, 9, &["m"]).submit(1, "m", 9).wait(1).submit(2, "m", 9);
    let suspected = story.online(2, 1, &["m"]).fail(2).end_as(1, success());
    suspected.submit(3, "m", 9).end(3).submit(4, "m", 9).check("1@1 2@1 3@2 4@2");
    let story = Story::new(9).online(1, 9, &["m"]).submit(1, "m", 9).wait(1);
    let story = story.submit(2, "m", 9).submit(3, "m", 9).submit(4, "m", 9).online(2, 1, &["m"]).submit(5, "m", 9);
    let skipped = story.fail(2).fail(3).fail(4).end_as(1, success()).submit(6, "m", 0).wait(1).submit(7, "m", 0);
    skipped.check("1@1 2@1 3@1 4@1 5@2 6:QueueTimeout { waited: 0ns } 7@1");
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
    offline().moved(1, 9, &["m"]).check("5@1");
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
fn a_report_of_another_server_does_not_count() {
    let story = || Story::choosing(Mode::Metrics).online(1, 9, &["m"]).online(2, 9, &["m"]).report(1, 0.0, 0.0, 0);
    let moved = || story().submit(1, "m", 9).moved(1, 9, &["m"]);
    moved().submit(2, "m", 9).check("1@1 2@2");
    // The end of the old report says nothing about the age of the new one.
    let story = moved().submit(2, "m", 9).wait(60).report(1, 0.0, 0.0, 0).submit(3, "m", 9);
    story.wait(60).submit(4, "m", 9).check("1@1 2@2 3@1 4@1");
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
