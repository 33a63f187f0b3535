//! An endpoint that fails again and again is skipped, which everybody can see, and tried with one request.

use serde_json::json;

use crate::support::fake_endpoint::{DONE, FINISH, STREAM_HEAD, chunk, content, json_answer};
use crate::support::{FakeEndpoint, RawClient, Step, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

#[actix_web::test]
async fn the_first_byte_of_a_good_answer_ends_the_skipping_and_viewers_see_it() {
    let app = TestApp::with(|config| config.health.failures_to_offline = 100).await;
    let (sick, good) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let sick_id = app.register("sick", &sick, 9).await;
    let mut viewer = app.viewer().await;
    sick.script(|_| json_answer(500, "{}"));
    for _ in 0..3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 500);
    }
    let breaker = |state: &'static str, id: String| {
        move |data: &serde_json::Value| data["endpoint_id"] == id && data["breaker"]["state"] == state
    };
    let opened = viewer.until("BreakerChanged", breaker("open", sick_id.clone())).await;
    assert!(opened["breaker"]["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{opened}");
    for path in ["/api/endpoints", "/api/dashboard/endpoints"] {
        let state = app.get(path).await.json()[0]["breaker"]["state"].clone();
        assert!(state == "open" || state == "trial", "{path}: {state}");
    }
    viewer.until("BreakerChanged", breaker("trial", sick_id.clone())).await;

    // The only slot of the other endpoint is taken: the next request is the trial, and its answer goes on and on.
    app.register("good", &good, 1).await;
    good.hold();
    let long =
        [content("Hel"), content("lo"), FINISH.to_owned(), DONE.to_owned()].map(|event| Step::Send(chunk(&event)));
    let [first, rest @ ..] = long;
    let steps =
        [vec![Step::Send(STREAM_HEAD.to_owned()), first, Step::Gate], rest.to_vec(), vec![Step::Send(chunk(""))]];
    sick.script(move |_| steps.concat());
    let arrived = sick.counts().arrived;
    let mut elsewhere = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    good.until("the other endpoint's request", |counts| counts.arrived == 1).await;
    let mut trial = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    trial.read_until("Hel").await;
    let closed = viewer.until("BreakerChanged", breaker("closed", sick_id.clone())).await;
    assert_eq!(closed["breaker"], json!({ "state": "closed", "until": null }));
    let mut next = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    next.read_until("Hel").await;
    assert_eq!(sick.counts().arrived, arrived + 2, "the trial request still runs");
    let view = app.get(&format!("/api/endpoints/{sick_id}")).await.json();
    assert_eq!(view["breaker"], json!({ "state": "closed", "until": null }));

    sick.release(2);
    good.release(1);
    for client in [&mut elsewhere, &mut trial, &mut next] {
        client.read_until("[DONE]").await;
    }
    app.finish().await;
}
