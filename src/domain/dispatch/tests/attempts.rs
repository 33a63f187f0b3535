//! What a failed attempt means for its request and its endpoint.

use super::*;

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
