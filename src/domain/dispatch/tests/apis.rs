//! What an answer of 501 means for later requests of the same API.

use super::*;

fn unserved() -> Outcome {
    Outcome::Failed(Failure::Status(501))
}

#[test]
fn a_501_is_remembered_unless_the_endpoint_has_served_the_api_since_its_last_sync() {
    let story = || Story::new(9).online(1, 1, &["a", "m"]).submit(1, "m", 9);
    story().end_as(1, unserved()).submit(2, "m", 9).check("1@1 2:ApiNotSupported(ChatCompletions)");
    let served = || story().end_as(1, Outcome::Succeeded { tokens: None });
    let odd = || served().submit(2, "m", 9).end_as(2, unserved());
    odd().submit(3, "m", 9).check("1@1 2@1 3@1");
    assert!(odd().dispatcher.take_blamed().is_empty());
    let other_model = served().submit(2, "a", 9).end_as(2, unserved());
    other_model.submit(3, "a", 9).check("1@1 2@1 3:ApiNotSupported(ChatCompletions)");
    let forgotten = [
        odd().synced(1),
        odd().wait(300).answered(1, 300),
        odd().online(1, 1, &["m"]),
        odd().endpoint(1, 1, EndpointStatus::Offline, &["a", "m"]).online(1, 1, &["a", "m"]),
    ];
    for story in forgotten {
        let story = story.submit(3, "m", 9).end_as(3, unserved()).submit(4, "m", 9);
        story.check("1@1 2@1 3@1 4:ApiNotSupported(ChatCompletions)");
    }
}

#[test]
fn an_api_is_not_supported_only_if_no_endpoint_with_the_model_may_serve_it() {
    use EndpointStatus::{Draining, Error, Offline};
    let story = || {
        let story = Story::new(9).online(1, 1, &["m"]).submit(1, "m", 9).end_as(1, unserved());
        story.online(2, 1, &["m"]).submit(2, "m", 9).submit(3, "m", 9)
    };
    for status in [Draining, Error, Offline] {
        let story = story().endpoint(2, 1, status, &["m"]).submit(4, "m", 9);
        story.check("1@1 2@2 3:NoEndpointOnline 4:NoEndpointOnline");
    }
    let gone = story().gone(2).submit(4, "m", 9);
    gone.check("1@1 2@2 3:ApiNotSupported(ChatCompletions) 4:ApiNotSupported(ChatCompletions)");
    let loading = story().endpoint(2, 1, EndpointStatus::Loading, &["m"]).submit(4, "m", 9);
    loading.online(2, 1, &["m"]).end(2).end(3).check("1@1 2@2 3@2 4@2");
}
