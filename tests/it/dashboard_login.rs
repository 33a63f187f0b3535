//! Who may see and do what on the dashboard once keys are required, in a real browser.

use awc::http::Method;
use leaseway::domain::keys::Scope;
use serde_json::json;

use crate::support::browser::Tab;
use crate::support::keys::{given_key, secret_of, start_with_keys};
use crate::support::{FakeEndpoint, TestApp};

/// The name of the view that is shown.
const VIEW: &str = "[...document.querySelectorAll('main')].find((view) => view.checkVisibility())?.dataset.view";

async fn until_view(tab: &Tab, view: &str) {
    tab.until(view, &format!("{VIEW} === '{view}'")).await;
}

/// Closes the browser; its console tells of refused requests and of nothing else.
async fn close(tab: Tab) {
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("status of 401")), "{problems:#?}");
}

#[actix_web::test]
async fn a_wrong_key_is_told_beside_the_field_and_a_right_key_opens_the_address() {
    let app = start_with_keys(vec![given_key("chat", Scope::Inference)]).await;
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    assert_eq!(tab.value(VIEW).await, json!("login"));
    let told = [
        ("", "Enter a key."),
        ("wrong", "This key is not valid: it is unknown, disabled or expired."),
        (&secret_of("chat"), "This key may not read the dashboard: it has neither the scope read nor admin."),
    ];
    for (key, problem) in told {
        tab.log_in(key).await;
        tab.until_text("#problem-login", problem).await;
        assert_eq!(tab.value("document.activeElement.getAttribute('aria-invalid')").await, json!("true"), "{key}");
        tab.until("the button is free", "!document.querySelector('#login-form button').disabled").await;
    }
    tab.log_in(&secret_of("root")).await;
    tab.until_live().await;
    until_view(&tab, "keys").await;
    tab.until_text("[data-key=root] .status", "valid").await;
    assert_eq!(tab.value("document.querySelector('#login-form').key.value").await, json!(""));
    tab.reload().await;
    until_view(&tab, "keys").await;
    tab.click("#log-out").await;
    tab.until_login().await;
    assert_eq!(tab.value("location.hash").await, json!("#keys"));
    assert_eq!(tab.value("document.querySelector('[data-key]')").await, json!(null));
    close(tab).await;
    app.finish().await;
}

/// Makes a key with the scope `admin`. Returns its id and its secret.
async fn make_admin(app: &TestApp, name: &str) -> (String, String) {
    let made = app.post("/api/keys", &json!({ "name": name, "scopes": ["admin"] })).await.json();
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

#[actix_web::test]
async fn a_session_ends_with_its_key_and_the_address_stays() {
    let app = start_with_keys(Vec::new()).await;
    let (id, secret) = make_admin(&app, "guest").await;
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.log_in(&secret).await;
    tab.until_text("[data-key=guest] .status", "valid").await;
    tab.until_live().await;
    tab.click("[data-key=guest] button").await;
    tab.until("the panel", "document.querySelector('#key-panel').open").await;
    // The page asks for nothing now: the server ends the live connection.
    assert_eq!(app.send(Method::DELETE, &format!("/api/keys/{id}"), &[], "").await.status, 204);
    tab.until_login().await;
    assert_eq!(tab.value("location.hash").await, json!("#keys"));
    assert_eq!(tab.value("document.querySelector('dialog[open]')").await, json!(null));
    tab.log_in(&secret_of("root")).await;
    tab.until("the key is gone", "document.querySelector('[data-key=guest]') === null").await;
    tab.until_live().await;
    until_view(&tab, "keys").await;
    close(tab).await;
    app.finish().await;
}

#[actix_web::test]
async fn who_may_only_read_sees_no_button_that_changes_anything() {
    let (app, endpoint) =
        (start_with_keys(vec![given_key("reader", Scope::Read)]).await, FakeEndpoint::start(&["m"]).await);
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.log_in(&secret_of("reader")).await;
    tab.until_live().await;
    until_view(&tab, "overview").await;
    tab.until_text("#endpoint-table", "No endpoints yet.").await;
    app.register("gpu-1", &endpoint, 1).await;
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    let seen = "[...document.querySelectorAll('button, a, input')].filter((node) => node.checkVisibility())\
        .map((node) => node.id || node.textContent)";
    let known = json!(["To the endpoints", "language", "theme", "log-out", "gpu-1"]);
    assert_eq!(tab.value(seen).await, known);
    tab.click("[data-endpoint=gpu-1] button").await;
    tab.until_text("#panel h2", "gpu-1").await;
    tab.until_text("#panel [data-part=models] .none", "Nothing measured yet.").await;
    assert_eq!(tab.value("document.querySelectorAll('#panel button').length").await, json!(1));
    close(tab).await;
    app.finish().await;
}
