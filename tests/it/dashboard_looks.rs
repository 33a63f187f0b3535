//! How the dashboard looks: words, colours, widths, and the files it is made of.

use std::path::PathBuf;
use std::time::Duration;

use awc::http::Method;
use tokio::time::interval;

use crate::support::browser::Tab;
use crate::support::fake_endpoint::json_answer;
use crate::support::{FakeEndpoint, TestApp, chat};

const CHAT: &str = "/v1/chat/completions";

/// The folder for pictures, if somebody wants to look at them.
pub fn pictures() -> Option<PathBuf> {
    std::env::var_os("LEASEWAY_PICTURES").map(PathBuf::from)
}

#[actix_web::test]
async fn language_and_theme_are_switched_and_remembered() {
    let app = TestApp::start().await;
    let tab = Tab::open(app.address).await;
    tab.prefer("dark").await;
    tab.until("dark", "document.documentElement.dataset.theme === 'dark'").await;
    tab.click("#theme").await;
    tab.until("light", "document.documentElement.dataset.theme === 'light'").await;
    tab.until_text("#endpoints-title", "Endpoints").await;
    tab.click("#language").await;
    tab.until_text("#endpoints-title", "エンドポイント").await;
    tab.reload().await;
    tab.until_text("#endpoints-title", "エンドポイント").await;
    tab.until("light", "document.documentElement.dataset.theme === 'light' && document.documentElement.lang === 'ja'")
        .await;
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn every_text_stands_out_from_its_ground_in_either_theme() {
    let (app, endpoint) = (TestApp::start().await, FakeEndpoint::start(&["m"]).await);
    app.register("gpu-1", &endpoint, 1).await;
    assert_eq!(app.post(CHAT, &chat("m", true)).await.status, 200);
    let tab = Tab::open(app.address).await;
    // Contrast as WCAG 2.2 defines it, which asks for 4.5 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
    let faint = "(() => {\
        const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);\
        const linear = (part) => part <= 0.04045 * 255 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;\
        const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);\
        const ground = (node) => {\
            const colour = parts(getComputedStyle(node).backgroundColor);\
            return colour[3] === 0 ? ground(node.parentElement) : colour;\
        };\
        const ratio = (node) => {\
            const style = getComputedStyle(node);\
            const colour = parts(node instanceof SVGElement ? style.fill : style.color);\
            const [dark, light] = [colour, ground(node)].map(luminance).sort((one, other) => one - other);\
            return (light + 0.05) / (dark + 0.05);\
        };\
        const shown = [...document.querySelectorAll('body *:not(title)')].filter((node) => node.checkVisibility()\
            && [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim() !== ''));\
        const found = shown.filter((node) => ratio(node) < 4.5).map((node) => `${node.textContent}: ${ratio(node)}`);\
        return shown.length > LEAST && found.length === 0 || [shown.length, ...found];\
    })()";
    let (keys, faint) = (faint.replace("LEAST", "30"), &faint.replace("LEAST", "40"));
    for theme in ["light", "dark"] {
        tab.prefer(theme).await;
        tab.until(theme, &format!("document.documentElement.dataset.theme === '{theme}'")).await;
        tab.click("[data-endpoint=gpu-1] button").await;
        tab.until_text("#panel [data-part=models] tbody td", "m").await;
        tab.until("the page and the panel are readable", faint).await;
        tab.press("Escape").await;
        tab.click("#add").await;
        tab.press("Enter").await;
        tab.until("a problem", "document.querySelector('#form .problem:not(:empty)') !== null").await;
        tab.until("the form is readable", faint).await;
        tab.press("Escape").await;
        tab.click("#views [href='#keys']").await;
        tab.click("#make-key").await;
        tab.click("#form [value=admin]").await;
        tab.press("Enter").await;
        tab.until("a warning", "document.querySelectorAll('#form .warning')[1].textContent !== ''").await;
        tab.until("the keys are readable", &keys).await;
        tab.press("Escape").await;
        tab.click("#views [href='#overview']").await;
    }
    let problems = tab.close().await;
    assert!(problems.iter().all(|problem| problem.contains("400")), "{problems:#?}");
    app.finish().await;
}

#[actix_web::test]
async fn no_width_needs_scrolling_sideways_and_the_first_paint_is_small() {
    let app = TestApp::start().await;
    let mut endpoints = Vec::new();
    let tab = Tab::open(app.address).await;
    for count in [0, 3, 60] {
        while endpoints.len() < count {
            let endpoint = FakeEndpoint::start(&["llama-3.1-8b-instruct-with-a-long-name", "m"]).await;
            app.register(&format!("endpoint-{}", endpoints.len()), &endpoint, 4).await;
            endpoint.script(|_| json_answer(422, "{}"));
            endpoints.push(endpoint);
        }
        if count > 0 {
            assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 422);
        }
        tab.until("all rows", &format!("document.querySelectorAll('[data-endpoint]').length === {count}")).await;
        for width in [1440, 390] {
            tab.show(width, 900).await;
            tab.until("it fits", &format!("document.documentElement.scrollWidth <= {width}")).await;
            for theme in ["light", "dark"] {
                tab.prefer(theme).await;
                tab.until(theme, &format!("document.documentElement.dataset.theme === '{theme}'")).await;
                if let Some(folder) = pictures() {
                    tab.picture(&folder.join(format!("{count}-{width}-{theme}.png"))).await;
                    tab.show(width, 900).await;
                }
            }
        }
    }
    let bytes = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/static/'))\
        .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)";
    let bytes = tab.value(bytes).await.as_f64().expect("a number");
    assert!((10_000.0..100.0 * 1024.0).contains(&bytes), "{bytes} bytes");
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn nothing_is_cut_where_there_is_little_room() {
    let app = TestApp::with(|config| config.health.failures_to_offline = 100).await;
    let (fast, sick) = (FakeEndpoint::start(&["m"]).await, FakeEndpoint::start(&["s"]).await);
    app.register("fast", &fast, 1).await;
    app.register("sick", &sick, 1).await;
    fast.script(|_| json_answer(200, r#"{"usage":{"prompt_tokens":1,"completion_tokens":500}}"#));
    assert_eq!(app.post(CHAT, &chat("m", false)).await.status, 200);
    sick.script(|_| json_answer(500, "{}"));
    let tab = Tab::open(app.address).await;
    tab.click("#language").await;
    tokio::select! {
        () = look(&tab) => {}
        () = fail(&app) => {}
    }
    tab.close_cleanly().await;
    app.finish().await;
}

/// Sends requests that fail, and so keeps an endpoint skipped.
async fn fail(app: &TestApp) {
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        assert_eq!(app.post(CHAT, &chat("s", false)).await.status, 500);
    }
}

/// Looks at the page and a panel on a narrow and on a usual screen.
async fn look(tab: &Tab) {
    for width in [360, 1280] {
        tab.show(width, 800).await;
        let is_whole = |selector: &str, text: &str| {
            format!(
                "(() => {{ const {{ scrollWidth, clientWidth, textContent }} = document.querySelector('{selector}');\
                    return {text}.test(textContent) && scrollWidth <= clientWidth; }})()"
            )
        };
        tab.until("the breaker", &is_whole("[data-endpoint=sick] td", "/除外中/")).await;
        tab.until("the speed", &is_whole("[data-stat=tokens-per-second]", "/\\d,\\d{3} tok/")).await;
        let one_line = "[...document.querySelectorAll('button')].every((button) => button.offsetHeight < 40)";
        tab.until("every button is one line", one_line).await;
        if let Some(folder) = pictures() {
            tab.picture(&folder.join(format!("narrow-{width}.png"))).await;
            tab.show(width, 800).await;
        }
        tab.click("[data-endpoint=sick] button").await;
        tab.until("the breaker in the panel", "/除外中/.test(document.querySelector('#panel dl').textContent)").await;
        tab.until("every button is one line", one_line).await;
        if let Some(folder) = pictures() {
            tab.picture(&folder.join(format!("panel-{width}.png"))).await;
        }
        tab.press("Escape").await;
    }
}

#[actix_web::test]
async fn a_number_of_slots_that_is_no_number_is_told() {
    let app = TestApp::start().await;
    let tab = Tab::open(app.address).await;
    tab.click("#add").await;
    for (field, text) in [("name", "a"), ("base_url", "http://127.0.0.1:9"), ("max_concurrency", "1e")] {
        tab.click(&format!("#form [name={field}]")).await;
        tab.write(text).await;
    }
    tab.press("Enter").await;
    tab.until_text("#problem-max_concurrency", "Write a whole number.").await;
    assert_eq!(app.get("/api/endpoints").await.json(), serde_json::json!([]));
    tab.close_cleanly().await;
    app.finish().await;
}

#[actix_web::test]
async fn files_are_kept_by_browsers_until_they_change_and_nothing_else_is_served() {
    let app = TestApp::start().await;
    let page = app.get("/dashboard").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let tag = page.header("etag").expect("a tag").to_owned();
    let again = app.send(Method::GET, "/dashboard", &[("if-none-match", &tag)], "").await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(app.send(Method::HEAD, "/dashboard", &[], "").await.status, 200);
    let script = app.get("/static/js/main.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    for path in ["/static/none.js", "/static/../Cargo.toml", "/static/%2e%2e/Cargo.toml", "/static/js"] {
        assert_eq!(app.get(path).await.error(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(app.get("/").await.header("location"), Some("/dashboard"));
    app.finish().await;
}
