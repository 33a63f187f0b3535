//! What viewers are told.

use serde_json::json;

use crate::support::{FakeEndpoint, TestApp, chat};

#[actix_web::test]
async fn viewers_hear_of_endpoints_the_line_and_speeds() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let mut viewer = app.viewer().await;
    let id = app.register("a", &endpoint, 1).await;
    let registered = viewer.until("EndpointRegistered", |_| true).await;
    assert_eq!((&registered["endpoint_id"], &registered["name"]), (&json!(id), &json!("a")));
    let change = viewer.until("EndpointStatusChanged", |_| true).await;
    assert_eq!(change, json!({ "endpoint_id": id, "old_status": "pending", "new_status": "online" }));
    app.post("/v1/chat/completions", &chat("m", false)).await;
    let update = viewer.until("TpsUpdated", |_| true).await;
    assert_eq!((&update["endpoint_id"], &update["model_id"]), (&json!(id), &json!("m")));
    assert_eq!(update["output_tokens"], 7);
    assert!(update["tps"].as_f64().is_some_and(|tps| tps > 0.0));
    app.send(awc::http::Method::DELETE, &format!("/api/endpoints/{id}"), &[], "").await;
    viewer.until("EndpointRemoved", |data| data["endpoint_id"] == json!(id)).await;
    app.finish().await;
    assert_eq!(viewer.next().await, None, "viewers are told of the end");
}

#[actix_web::test]
async fn the_timeline_has_sixty_minutes_and_counts_requests() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("a", &endpoint, 1).await;
    app.post("/v1/chat/completions", &chat("m", false)).await;
    app.until_endpoint(&id, "counted", |endpoint| endpoint["total_requests"] == 1).await;
    let timeline = app.get("/api/dashboard/request-history").await.json();
    let minutes = timeline.as_array().expect("a list");
    assert_eq!(minutes.len(), 60);
    let successes: u64 = minutes.iter().filter_map(|minute| minute["success"].as_u64()).sum();
    assert_eq!(successes, 1);
    assert!(minutes[59]["minute"].as_str().is_some_and(|time| time.ends_with(":00Z")), "{}", minutes[59]);
    app.finish().await;
}
