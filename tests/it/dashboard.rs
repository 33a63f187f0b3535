//! What the dashboard does, in a real browser.

use std::time::{Duration, Instant};

use awc::http::Method;
use serde_json::json;

use crate::support::browser::Tab;
use crate::support::database::Database;
use crate::support::fake_endpoint::{json_answer, polite};
use crate::support::{FakeEndpoint, RawClient, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

fn stat(name: &str) -> String {
    format!("[data-stat={name}]")
}

#[actix_web::test]
async fn a_request_moves_cards_speed_and_timeline_without_a_reload() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let tab = Tab::open(app.address).await;
    tab.until("the empty state", "document.querySelector('.empty code').textContent.startsWith('curl http://')").await;
    let id = app.register("gpu-1", &endpoint, 2).await;
    tab.until_text(&stat("online-endpoints"), "1 / 1").await;
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    endpoint.hold();
    let running = RawClient::post(app.address, CHAT, &chat("m", true)).await;
    tab.until_text(&stat("active-requests"), "1").await;
    tab.until_text("[data-endpoint=gpu-1] td:nth-child(5)", "1 / 2").await;
    endpoint.release(1);
    tab.until_text(&stat("active-requests"), "0").await;
    tab.until_text(&stat("total-requests"), "1").await;
    tab.until_text(&stat("success-rate"), "100 %").await;
    tab.until_text(&stat("output-tokens"), "5").await;
    tab.until(
        "a speed",
        "/^[0-9.]+ tok.s$/.test(document.querySelector('[data-endpoint=gpu-1] td:nth-child(9)').textContent)",
    )
    .await;
    let bar = "[...document.querySelectorAll('#timeline .success')].some((bar) => bar.height.baseVal.value > 50)";
    tab.until("a bar", bar).await;
    tab.until(
        "figures of the bar",
        "[...document.querySelectorAll('#timeline title')].some((bar) => bar.textContent.endsWith('1 succeeded, 0 failed'))",
    )
    .await;
    drop(running);
    app.until_counted(&id, 1, 0).await;
    endpoint.release(20);
    until_seen_within_a_second(&app, &tab).await;
    tab.close_cleanly().await;
    app.finish().await;
}

/// Sends requests until the page has shown one of them everywhere within a second; a busy machine may be late sometimes.
async fn until_seen_within_a_second(app: &TestApp, tab: &Tab) {
    let mut times = Vec::new();
    for count in 2..=20 {
        let started = Instant::now();
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
        let shown = format!(
            "(() => {{\
                const texts = (selector) => [...document.querySelectorAll(selector)].map((node) => node.textContent);\
                const bars = texts('#timeline title').map((bar) => Number(/: (\\d+) succeeded/.exec(bar)[1]));\
                const [card] = texts('[data-stat=total-requests]');\
                const [row] = texts('[data-endpoint=gpu-1] td:nth-child(6)');\
                const seen = [Number(card), Number(row), bars.reduce((sum, bar) => sum + bar)];\
                return seen.every((figure) => figure === {count}) || seen;\
            }})()"
        );
        tab.until("the page shows it", &shown).await;
        times.push(started.elapsed());
        if started.elapsed() < Duration::from_secs(1) {
            return;
        }
    }
    panic!("never within a second: {times:?}");
}

#[actix_web::test]
async fn an_endpoint_that_dies_is_seen_to_die_and_come_back() {
    let app = TestApp::with(|config| config.health.interval = Duration::from_secs(1)).await;
    let mut endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("gpu-1", &endpoint, 1).await;
    let tab = Tab::open(app.address).await;
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    endpoint.kill().await;
    tab.until_text("[data-endpoint=gpu-1] .status", "offline").await;
    tab.until_text(&stat("online-endpoints"), "0 / 1").await;
    endpoint.revive();
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn the_queue_rises_and_falls_and_the_waiting_room_shows_it() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("gpu-1", &endpoint, 1).await;
    let tab = Tab::open(app.address).await;
    endpoint.hold();
    let mut clients = Vec::new();
    for waiting in 0..4 {
        clients.push(RawClient::post(app.address, CHAT, &chat("m", false)).await);
        tab.until_text(&stat("queued-requests"), &waiting.to_string()).await;
    }
    tab.value("document.querySelector('#waiting').scrollIntoView()").await;
    tab.until_text("[data-part=waitsNow] tbody td:nth-child(2)", "3").await;
    tab.until_text("[data-part=running] tbody td", "gpu-1").await;
    endpoint.release(4);
    tab.until_text(&stat("queued-requests"), "0").await;
    tab.until_text("[data-part=waitsNow] .none", "Nobody waits.").await;
    tab.until_text("[data-part=grants] tbody td:nth-child(4)", "the only one free").await;
    app.until_counted(&id, 4, 0).await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn a_lost_connection_is_said_and_made_good() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("gpu-1", &endpoint, 1).await;
    let tab = Tab::open(app.address).await;
    let address = app.address;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    let folder = app.restartable().await;
    tab.until("it says so", "document.querySelector('#connection').dataset.state === 'reconnecting'").await;
    let app = TestApp::start_in(folder, |config| config.server.bind = address).await;
    tab.until("live", "document.querySelector('#connection').dataset.state === 'live'").await;
    tab.until_text(&stat("total-requests"), "1").await;
    assert_eq!(app.post(CHAT, &chat("unknown", false)).await.status, 404);
    tab.until_text(&stat("total-requests"), "2").await;
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("ERR_CONNECTION_REFUSED")), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn endpoints_are_added_looked_at_and_removed_by_keyboard_alone() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let tab = Tab::open(app.address).await;
    tab.reach("#add").await;
    tab.press("Enter").await;
    tab.until("the form", "document.querySelector('#form').open").await;
    tab.reach("[name=name]").await;
    tab.write("gpu-1").await;
    tab.reach("[name=base_url]").await;
    tab.write("gopher://x").await;
    tab.press("Enter").await;
    tab.until("the server's words", "document.querySelector('#problem-base_url').textContent.includes('gopher://x')")
        .await;
    tab.until(
        "beside the field",
        "document.activeElement.name === 'base_url' && document.activeElement.getAttribute('aria-invalid') === 'true'",
    )
    .await;
    tab.value("document.activeElement.select()").await;
    tab.write(&endpoint.url()).await;
    tab.press("Enter").await;
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    tab.reach("[data-endpoint=gpu-1] button").await;
    tab.press("Enter").await;
    tab.until_text("#panel h2", "gpu-1").await;
    tab.until_text("#panel [data-part=models] tbody td", "m").await;
    tab.until(
        "its day",
        "[...document.querySelectorAll('#panel [data-part=days] title')].at(-1)?.textContent.endsWith('1 succeeded, 0 failed')",
    )
    .await;
    tab.press("Escape").await;
    tab.until("the focus is back", "document.activeElement.matches('[data-endpoint=gpu-1] button')").await;
    tab.press("Enter").await;
    tab.reach("#panel .danger").await;
    tab.press("Enter").await;
    tab.until("it asks once more", "document.activeElement.matches('#panel .actions .quiet.last')").await;
    tab.reach("#panel .sure").await;
    tab.press("Enter").await;
    tab.until(
        "it is gone",
        "document.querySelector('[data-endpoint]') === null && !document.querySelector('#panel').open",
    )
    .await;
    assert_eq!(app.get("/api/endpoints").await.json(), json!([]));
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("400")), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn after_many_events_the_page_shows_what_the_overview_says() {
    let (app, a) = (TestApp::start().await, FakeEndpoint::start(&["m", "n"]).await);
    let tab = Tab::open(app.address).await;
    let b = FakeEndpoint::start(&["n", "o"]).await;
    let (a_id, b_id) = (app.register_scored("a", &a, 2).await, app.register_scored("b", &b, 1).await);
    for round in 0..30 {
        let model = ["m", "n", "o", "unknown"][round % 4];
        if round == 9 {
            a.script(|_| json_answer(500, "{}"));
        }
        if round == 15 {
            a.script(polite);
        }
        app.post(CHAT, &chat(model, round % 2 == 0)).await;
    }
    app.send(Method::DELETE, &format!("/api/endpoints/{b_id}"), &[], "").await;
    app.until_endpoint(&a_id, "idle", |view| view["in_flight"] == 0).await;
    // Compares the page's store with the server's overview, leaving out what changes from moment to moment.
    let same = "(async () => {\
        const { state } = await import('/static/js/store.js');\
        const overview = await (await fetch('/api/dashboard/overview')).json();\
        const lines = ({ endpoints, stats, history, endpoint_tps }) => [\
            ...endpoints, stats, ...history, ...endpoint_tps.filter((speed) => speed.total_requests > 0),\
        ].flatMap(Object.entries).map((entry) => JSON.stringify(entry)).sort();\
        const [page, server] = [lines(state.overview), lines(overview)];\
        const only = (some, others) => some.filter((line, place) => line !== others[place]);\
        return `${page}` === `${server}` || { page: only(page, server), server: only(server, page) };\
    })()";
    tab.until("the page is right", same).await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn a_click_takes_its_time_whatever_happens_on_the_page() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("gpu-1", &endpoint, 1).await;
    let tab = Tab::open(app.address).await;
    tab.until_text("[data-endpoint=gpu-1] .status", "online").await;
    tab.hold_down("[data-endpoint=gpu-1] button").await;
    for count in 1..=3 {
        assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
        tab.until_text(&stat("total-requests"), &count.to_string()).await;
    }
    tab.let_go("[data-endpoint=gpu-1] button").await;
    tab.until_text("#panel h2", "gpu-1").await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn the_focus_stays_where_it_is_while_the_page_moves() {
    let (app, a, b) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["m"]).await);
    let (a_id, b_id) = (app.register("a", &a, 1).await, app.register("b", &b, 1).await);
    let tab = Tab::open(app.address).await;
    tab.until_text("[data-endpoint=b] .status", "online").await;
    tab.value("document.querySelector('[data-endpoint=b] button').focus()").await;
    app.send(Method::DELETE, &format!("/api/endpoints/{a_id}"), &[], "").await;
    tab.until("a is gone", "document.querySelector('[data-endpoint=a]') === null").await;
    assert_eq!(tab.value("document.activeElement.textContent").await, "b");
    tab.press("Enter").await;
    tab.until_text("#panel h2", "b").await;
    let probe = "document.querySelector('#panel .actions button:nth-child(2)')";
    tab.value(&format!("{probe}.focus()")).await;
    let seen = app.get(&format!("/api/endpoints/{b_id}")).await.json()["last_seen"].clone();
    tab.press("Enter").await;
    app.until_endpoint(&b_id, "probed", |view| view["last_seen"] != seen).await;
    tab.until("the button is free", &format!("!{probe}.disabled && document.activeElement === {probe}")).await;
    // The `close` event comes later than the closing; the focus may have moved on by then.
    let moved_on = "new Promise((told) => {\
        const panel = document.querySelector('#panel');\
        panel.addEventListener('close', () => told(document.activeElement.matches('#timeline svg')));\
        panel.close();\
        document.querySelector('#timeline svg').focus();\
    })";
    assert_eq!(tab.value(moved_on).await, json!(true));
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn days_end_with_today_and_a_chosen_minute_stays_chosen() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("gpu-1", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_counted(&id, 1, 0).await;
    let folder = app.restartable().await;
    let mut database = Database::open(&folder.path().join("test.db"));
    database.execute("UPDATE endpoint_daily_stats SET date = date(date, '-3 day')");
    let app = TestApp::start_in(folder, |_| {}).await;
    let tab = Tab::open(app.address).await;
    tab.click("[data-endpoint=gpu-1] button").await;
    let days = "[...document.querySelectorAll('#panel [data-part=days] title')].map((title) => title.textContent)";
    tab.until("fourteen days", &format!("{days}.length === 14")).await;
    let days = tab.value(days).await;
    assert!(days[10].as_str().is_some_and(|day| day.ends_with(": 1 succeeded, 0 failed")), "{days}");
    assert!(days[13].as_str().is_some_and(|day| day.ends_with(": 0 succeeded, 0 failed")), "{days}");
    tab.press("Escape").await;
    tab.until("the focus is back", "document.activeElement.matches('[data-endpoint=gpu-1] button')").await;
    tab.value("document.querySelector('#timeline svg').focus()").await;
    tab.press("ArrowLeft").await;
    tab.press("ArrowLeft").await;
    let readout = "document.querySelector('#timeline output').textContent";
    let chosen = tab.value(readout).await;
    assert!(chosen.as_str().is_some_and(|text| text.contains("succeeded")), "{chosen}");
    let labels = "[...document.querySelectorAll('#timeline title')].map((title) => title.textContent)";
    let before = tab.value(labels).await;
    let event = "import('/static/js/store.js').then(({ apply, state }) => apply({ type: 'MinuteAdvanced', data: {\
        success: 0, error: 0,\
        minute: new Date(Date.parse(state.overview.history.at(-1).minute) + 60000).toISOString().replace('.000Z', 'Z'),\
    } }))";
    tab.value(event).await;
    tab.until("a new minute", &format!("`${{{labels}}}` !== `${{{before}}}`")).await;
    assert_eq!(tab.value(readout).await, chosen);
    assert_eq!(tab.value("document.activeElement.matches('#timeline svg')").await, json!(true));
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn what_cannot_be_read_is_said_until_it_can() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    let id = app.register("gpu-1", &endpoint, 1).await;
    let tab = Tab::open(app.address).await;
    tab.click("[data-endpoint=gpu-1] button").await;
    tab.until_text("#panel [data-part=models] .none", "Nothing measured yet.").await;
    tab.value("void (window.kept = fetch, window.fetch = () => Promise.reject(new TypeError('cut')))").await;
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    app.until_counted(&id, 1, 0).await;
    tab.until_text("#panel [data-problem=models]", "Leaseway gives no answer.").await;
    tab.until_text("#waiting-problem", "Leaseway gives no answer.").await;
    tab.value("void (window.fetch = window.kept)").await;
    tab.until_text("#panel [data-part=models] tbody td", "m").await;
    tab.until_text("#panel [data-problem=models]", "").await;
    tab.until_text("#waiting-problem", "").await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn history_that_was_dropped_is_said() {
    let app = TestApp::start().await;
    let tab = Tab::open(app.address).await;
    let shown = "document.querySelector('#rows-dropped').checkVisibility()";
    assert_eq!(tab.value(shown).await, json!(false));
    let event = "import('/static/js/store.js').then(({ apply, state }) => apply({ type: 'MinuteAdvanced', data: {\
        ...state.overview.history.at(-1), history_rows_dropped: 1234 } }))";
    tab.value(event).await;
    tab.until("it is said", "document.querySelector('#rows-dropped').textContent.startsWith('1,234 history rows')")
        .await;
    assert_eq!(tab.value(shown).await, json!(true));
    tab.close_cleanly().await;
    app.finish().await;
}
