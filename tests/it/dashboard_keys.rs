//! The dashboard's view of keys, in a real browser.

use awc::http::Method;
use chrono::{Duration, Utc};
use leaseway::domain::keys::{KeySource, Scope};
use serde_json::{Value, json};

use crate::dashboard_looks::pictures;
use crate::support::TestApp;
use crate::support::browser::Tab;
use crate::support::keys::{given_key, secret_of, start_with_keys};

/// Writes a text into a field of the open form.
async fn fill(tab: &Tab, field: &str, text: &str) {
    tab.click(&format!("#form [name={field}]")).await;
    tab.write(text).await;
}

/// Waits for the dialog that shows a secret. Returns the secret.
async fn shown_secret(tab: &Tab) -> String {
    tab.until("a secret", "/^lw_[\\w-]{43}$/.test(document.querySelector('#new-key')?.textContent)").await;
    tab.value("document.querySelector('#new-key').textContent").await.as_str().expect("a text").to_owned()
}

/// Closes the dialog that shows a secret. Nothing of the secret stays on the page.
async fn forget(tab: &Tab, secret: &str) {
    tab.click("#secret .actions button").await;
    tab.until("closed", "!document.querySelector('#secret').open").await;
    let is_there = format!("document.documentElement.outerHTML.includes('{secret}')");
    tab.until("it is forgotten", &format!("!{is_there}")).await;
}

/// Clicks the button of the open key panel that has this label.
async fn act(tab: &Tab, label: &str) {
    let found = format!(
        "(() => {{ document.querySelectorAll('[data-found]').forEach((button) => button.removeAttribute('data-found'));\
            const buttons = [...document.querySelectorAll('#key-panel .actions button')];\
            const found = buttons.find(({{ textContent }}) => textContent === '{label}');\
            found?.setAttribute('data-found', '');\
            return found?.disabled === false || buttons.map(({{ outerHTML }}) => outerHTML); }})()"
    );
    tab.until(label, &found).await;
    tab.click("#key-panel [data-found]").await;
}

/// Returns the status of a request with this key.
async fn status(app: &TestApp, path: &str, secret: &str) -> u16 {
    app.send_as(Method::GET, path, &[("x-api-key", secret)], "").await.status.as_u16()
}

/// Returns the JSON of the key with this name.
async fn key(app: &TestApp, name: &str) -> Value {
    let keys = app.get("/api/keys").await.json();
    keys.as_array().expect("a list").iter().find(|key| key["name"] == name).cloned().unwrap_or_default()
}

#[actix_web::test]
async fn the_first_key_ends_open_access_and_the_page_goes_on_with_it() {
    let mut app = TestApp::start().await;
    let tab = Tab::open(app.address).await;
    tab.click("#views [href='#keys']").await;
    tab.until("the view says so", "document.querySelector('#open-access').textContent.startsWith('Access is open')")
        .await;
    tab.until_text("#key-table", "There are no keys yet.").await;
    tab.click("#make-key").await;
    let warning = |index: usize| format!("document.querySelectorAll('#form .warning')[{index}].textContent");
    tab.until("a warning", &format!("{}.includes('everybody needs a key')", warning(0))).await;
    tab.click("#form [value=admin]").await;
    tab.until("a warning", &format!("{}.includes('nobody could manage keys')", warning(1))).await;
    tab.click("#form [value=admin]").await;
    tab.until("no warning", &format!("{} === ''", warning(1))).await;
    fill(&tab, "name", "first").await;
    tab.press("Enter").await;
    let secret = shown_secret(&tab).await;
    assert_eq!(app.get("/api/keys").await.status, 401);
    app.key = Some(secret.clone());
    assert_eq!(key(&app, "first").await["scopes"], json!(["admin"]));
    tab.until("the page is logged in", "document.querySelector('#log-out').title === 'first'").await;
    forget(&tab, &secret).await;
    tab.until_text("[data-key=first] .status", "valid").await;
    tab.until_text("#open-access", "").await;
    tab.reload().await;
    tab.until_text("[data-key=first] .status", "valid").await;
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("status of 401")), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn a_first_key_that_may_only_read_is_made_by_keyboard_and_leaves_nothing_to_press() {
    let mut app = TestApp::start().await;
    let tab = Tab::open(app.address).await;
    tab.reach("#views [href='#keys']").await;
    tab.press("Enter").await;
    tab.reach("#make-key").await;
    tab.press("Enter").await;
    tab.until("the form", "document.activeElement.matches('#form [name=name]')").await;
    tab.write("screen").await;
    for scope in ["read", "admin"] {
        tab.reach(&format!("#form [value={scope}]")).await;
        tab.press(" ").await;
    }
    tab.press("Enter").await;
    let secret = shown_secret(&tab).await;
    tab.until("the page is logged in", "document.querySelector('#log-out').title === 'screen'").await;
    tab.reach("#secret .actions button").await;
    tab.press("Enter").await;
    tab.until("the overview", "document.querySelector('#overview').checkVisibility()").await;
    tab.until("no way to keys", "!document.querySelector('#views').checkVisibility()").await;
    app.key = Some(secret);
    let problems = tab.close().await;
    let is_refusal = |problem: &String| problem.contains("status of 401") || problem.contains("status of 403");
    assert!(problems.iter().all(is_refusal), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn a_new_secret_stays_until_it_is_copied_even_if_the_session_ends() {
    let app = start_with_keys(Vec::new()).await;
    let guest = app.post("/api/keys", &json!({ "name": "guest", "scopes": ["admin"] })).await.json();
    let text = |field: &str| guest[field].as_str().expect("a text").to_owned();
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.log_in(&text("key")).await;
    tab.until_live().await;
    tab.click("#make-key").await;
    fill(&tab, "name", "chat").await;
    tab.press("Enter").await;
    let secret = shown_secret(&tab).await;
    assert_eq!(app.send(Method::DELETE, &format!("/api/keys/{}", text("id")), &[], "").await.status, 204);
    tab.until("the login form waits", "document.querySelector('#login-form').checkVisibility()").await;
    assert_eq!(shown_secret(&tab).await, secret);
    forget(&tab, &secret).await;
    tab.until_login().await;
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("status of 401")), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn a_key_is_made_copied_changed_rotated_and_revoked() {
    let app = start_with_keys(Vec::new()).await;
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.log_in(&secret_of("root")).await;
    tab.until_live().await;
    tab.click("#make-key").await;
    fill(&tab, "name", "root").await;
    fill(&tab, "models", "m's, n-*").await;
    fill(&tab, "tokens_per_day", "5000").await;
    fill(&tab, "max_waiting", "0").await;
    tab.value("document.querySelector('#form [name=expires_at]').value = '2099-01-02T03:04'").await;
    tab.press("Enter").await;
    tab.until_text("#problem-name", "a key named `root` already exists").await;
    assert_eq!(tab.value("document.activeElement.name").await, json!("name"));
    tab.value("document.activeElement.select()").await;
    tab.write("chat").await;
    tab.press("Enter").await;
    let secret = shown_secret(&tab).await;
    let lines = tab.value("document.querySelector('#curl').textContent").await;
    let start = format!("curl http://{}/v1/chat/completions \\\n  -H 'authorization: Bearer {secret}'", app.address);
    assert!(lines.as_str().is_some_and(|text| text.starts_with(&start) && text.contains(r#"{"model":"m'\''s","#)));
    let lines = tab.value("document.querySelector('#python').textContent").await;
    let client = format!(r#"client = OpenAI(base_url="http://{}/v1", api_key="{secret}")"#, app.address);
    assert!(lines.as_str().is_some_and(|text| text.contains(&client)), "{lines}");
    tab.click("[data-copies=new-key]").await;
    tab.until_text("#secret [role=status]", "Copied").await;
    forget(&tab, &secret).await;
    let made = key(&app, "chat").await;
    assert_eq!((&made["models"], &made["scopes"]), (&json!(["m's", "n-*"]), &json!(["inference"])));
    let end = tab.value("new Date('2099-01-02T03:04').toISOString().replace('.000Z', 'Z')").await;
    assert_eq!(made["expires_at"], end);
    assert_eq!((&made["tokens_per_day"], &made["max_waiting"]), (&json!(5000), &json!(0)));
    assert_eq!((&made["requests_per_minute"], &made["max_concurrency"]), (&Value::Null, &Value::Null));
    assert_eq!(status(&app, "/v1/models", &secret).await, 200);

    tab.click("[data-key=chat] button").await;
    act(&tab, "Change").await;
    tab.click("#form [value=read]").await;
    let name = "document.querySelector('#form [name=name]')";
    tab.value(&format!("{name}.select()")).await;
    tab.paste().await;
    tab.until("what was copied", &format!("{name}.value === '{secret}'")).await;
    tab.value(&format!("{name}.select()")).await;
    tab.write("talk").await;
    tab.press("Enter").await;
    tab.until_text("#key-panel h2", "talk").await;
    let shown = "document.querySelector('#key-panel dl').textContent";
    tab.until("the limits", &format!("{shown}.includes('Tokens per day: 5000, Waiting requests: 0')")).await;
    let changed = json!({ "name": "talk", "scopes": ["inference", "read"] });
    let mut expected = made.clone();
    expected.as_object_mut().expect("an object").extend(changed.as_object().cloned().expect("an object"));
    let mut talk = key(&app, "talk").await;
    talk["last_used_at"] = made["last_used_at"].clone();
    assert_eq!(talk, expected);

    act(&tab, "Disable").await;
    tab.until_text("[data-key=talk] .status", "disabled").await;
    assert_eq!(status(&app, "/v1/models", &secret).await, 401);
    act(&tab, "Enable").await;
    tab.until_text("[data-key=talk] .status", "valid").await;

    act(&tab, "Rotate").await;
    tab.value("document.querySelector('[name=grace]').value = '600'").await;
    act(&tab, "Make the new secret").await;
    let second = shown_secret(&tab).await;
    forget(&tab, &second).await;
    for valid in [&secret, &second] {
        assert_eq!(status(&app, "/v1/models", valid).await, 200);
    }
    act(&tab, "Rotate").await;
    act(&tab, "Make the new secret").await;
    let third = shown_secret(&tab).await;
    forget(&tab, &third).await;
    assert_eq!((status(&app, "/v1/models", &second).await, status(&app, "/v1/models", &third).await), (401, 200));

    act(&tab, "Revoke").await;
    assert_eq!(tab.value("document.activeElement.textContent").await, json!("Cancel"));
    act(&tab, "Really revoke?").await;
    tab.until(
        "it is gone",
        "!document.querySelector('#key-panel').open && document.querySelector('[data-key=talk]') === null",
    )
    .await;
    assert_eq!(status(&app, "/v1/models", &third).await, 401);
    let problems = tab.close().await;
    let is_known = |problem: &String| problem.contains("status of 401") || problem.contains("status of 409");
    assert!(problems.iter().all(is_known), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn keys_that_are_managed_elsewhere_are_shown_without_buttons() {
    let mut env = given_key("boss", Scope::Admin);
    env.source = KeySource::Env;
    let mut old = given_key("old", Scope::Inference);
    old.definition.expires_at = Some(Utc::now() - Duration::hours(1));
    let app = start_with_keys(vec![env, old]).await;
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.log_in(&secret_of("root")).await;
    tab.until_text("[data-key=old] .status", "expired").await;
    for (name, source, told) in [
        ("old", "config file", "This key is defined in the config file and can be changed only there."),
        ("boss", "environment", "This key is defined in the environment and can be changed only there."),
    ] {
        tab.until_text(&format!("[data-key={name}] td:nth-child(8)"), source).await;
        tab.click(&format!("[data-key={name}] button")).await;
        tab.until_text("#key-panel .actions", told).await;
        assert_eq!(tab.value("document.querySelectorAll('#key-panel button').length").await, json!(1));
        tab.press("Escape").await;
        let focus = format!("document.activeElement.matches('[data-key={name}] button')");
        tab.until("the focus is back", &focus).await;
    }
    tab.close().await;
    app.finish().await;
}

#[actix_web::test]
async fn keys_are_readable_at_every_width_in_japanese() {
    let app = start_with_keys(vec![given_key("reader-with-a-name-that-is-rather-long", Scope::Read)]).await;
    let body =
        json!({ "name": "talk", "scopes": ["inference", "read", "report", "metrics"], "models": ["llama-3.1-8b-*"] });
    app.post("/api/keys", &body).await;
    let tab = Tab::open_login(app.address, "/dashboard#keys").await;
    tab.click("#language").await;
    tab.until_text("#login-form button", "ログイン").await;
    for width in [390, 1280] {
        look(&tab, "login", width).await;
    }
    tab.value("document.querySelector('#login-form').key.focus()").await;
    tab.log_in(&secret_of("root")).await;
    tab.until_text("[data-key=talk] .status", "有効").await;
    for width in [390, 1280] {
        look(&tab, "keys", width).await;
        tab.click("[data-key=talk] button").await;
        act(&tab, "再発行").await;
        look(&tab, "key", width).await;
        act(&tab, "変更").await;
        look(&tab, "form", width).await;
        tab.press("Escape").await;
        act(&tab, "新しいキーを発行").await;
        shown_secret(&tab).await;
        look(&tab, "secret", width).await;
        tab.click("#secret .actions button").await;
        tab.press("Escape").await;
        tab.until("closed", "document.querySelector('dialog[open]') === null").await;
    }
    tab.close().await;
    app.finish().await;
}

/// Checks that the page needs no scrolling sideways and that every button is one line.
async fn look(tab: &Tab, name: &str, width: i64) {
    for theme in ["light", "dark"] {
        tab.show(width, 900).await;
        tab.prefer(theme).await;
        tab.until(theme, &format!("document.documentElement.dataset.theme === '{theme}'")).await;
        if let Some(folder) = pictures() {
            tab.picture(&folder.join(format!("{name}-{width}-{theme}.png"))).await;
            tab.show(width, 900).await;
        }
    }
    let fits = format!(
        "(() => {{ const wide = [document.documentElement, ...document.querySelectorAll('dialog[open]')]\
            .filter(({{ scrollWidth, clientWidth }}) => scrollWidth > Math.min(clientWidth, {width}));\
            const high = [...document.querySelectorAll('button')].filter(({{ offsetHeight }}) => offsetHeight >= 40);\
            return wide.length + high.length === 0 || [...wide, ...high].map(({{ id, outerHTML }}) => id || outerHTML); }})()"
    );
    tab.until(name, &fits).await;
}
