//! The dashboard in a real browser: Chromium, without a window.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::emulation::{
    MediaFeature, SetDeviceMetricsOverrideParams, SetEmulatedMediaParams,
};
use chromiumoxide::cdp::browser_protocol::input::{
    DispatchKeyEventParams, DispatchKeyEventType, DispatchMouseEventParams, DispatchMouseEventType, MouseButton,
};
use chromiumoxide::cdp::browser_protocol::log::EventEntryAdded;
use chromiumoxide::cdp::js_protocol::runtime::{EventConsoleApiCalled, EventExceptionThrown};
use chromiumoxide::{Browser, BrowserConfig, Page};
use futures_util::StreamExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use super::{PATIENCE, soon};

/// The path at which Debian's package installs Chromium.
const CHROMIUM: &str = "/usr/bin/chromium";

/// How long a browser may take to start while others start beside it.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(60);

const LIVE: &str = "document.querySelector('#connection').dataset.state === 'live'";

/// The login form is shown, and the focus is in its field.
const LOGIN: &str = "document.activeElement.matches('#login-form [name=key]')";

/// A tab that shows the dashboard.
pub struct Tab {
    page: Page,
    browser: Browser,
    /// Errors on the tab's console.
    problems: Arc<Mutex<Vec<String>>>,
    profile: TempDir,
}

impl Tab {
    /// Opens the dashboard and waits until the page is live.
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_at(address, "/", LIVE).await
    }

    /// Opens the dashboard at `path` and waits until it asks for a key.
    pub async fn open_login(address: SocketAddr, path: &str) -> Self {
        Self::open_at(address, path, LOGIN).await
    }

    async fn open_at(address: SocketAddr, path: &str, ready: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let config = BrowserConfig::builder()
            .chrome_executable(CHROMIUM)
            .user_data_dir(profile.path())
            .no_sandbox()
            .new_headless_mode()
            .viewport(None)
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--lang=en-US"])
            .launch_timeout(LAUNCH_PATIENCE)
            .build()
            .expect("a browser");
        let (browser, mut events) = Browser::launch(config).await.expect("Chromium, which `make test` installs");
        actix_web::rt::spawn(async move { while events.next().await.is_some() {} });
        let page = browser.new_page("about:blank").await.expect("a tab");
        let problems: Arc<Mutex<Vec<String>>> = Arc::default();
        let tab = Self { page, browser, problems, profile };
        tab.listen().await;
        tab.show(1440, 900).await;
        tab.page.goto(format!("http://{address}{path}")).await.expect("the page");
        tab.until_within(LAUNCH_PATIENCE, ready, ready).await;
        tab
    }

    async fn listen(&self) {
        let mut entries = self.page.event_listener::<EventEntryAdded>().await.expect("events");
        let mut calls = self.page.event_listener::<EventConsoleApiCalled>().await.expect("events");
        let mut exceptions = self.page.event_listener::<EventExceptionThrown>().await.expect("events");
        self.page.enable_log().await.expect("the log");
        self.page.enable_runtime().await.expect("the console");
        let problems = self.problems.clone();
        actix_web::rt::spawn(async move {
            loop {
                let problem = tokio::select! {
                    Some(entry) = entries.next() => format!("{:?}: {}", entry.entry.level, entry.entry.text),
                    Some(call) = calls.next() => format!("{:?}: {:?}", call.r#type, call.args),
                    Some(exception) = exceptions.next() => format!("{:?}", exception.exception_details),
                    else => return,
                };
                problems.lock().expect("no panic").push(problem);
            }
        });
    }

    /// Sets the size of the page in pixels.
    pub async fn show(&self, width: i64, height: i64) {
        let metrics = SetDeviceMetricsOverrideParams::new(width, height, 1.0, width < 500);
        self.page.execute(metrics).await.expect("a size");
    }

    /// Sets the system's preference for `dark` or `light` pages.
    pub async fn prefer(&self, scheme: &str) {
        let feature = MediaFeature::new("prefers-color-scheme", scheme);
        let media = SetEmulatedMediaParams::builder().features(vec![feature]).build();
        self.page.execute(media).await.expect("a preference");
    }

    /// Returns the value of a JavaScript expression on the page.
    pub async fn value(&self, expression: &str) -> Value {
        let evaluated = self.page.evaluate(expression).await.unwrap_or_else(|error| panic!("{error}: {expression}"));
        evaluated.value().cloned().unwrap_or(Value::Null)
    }

    /// Waits until a JavaScript expression is true on the page.
    pub async fn until(&self, what: &str, expression: &str) {
        self.until_within(PATIENCE, what, expression).await;
    }

    async fn until_within(&self, patience: Duration, what: &str, expression: &str) {
        let mut seen = Value::Null;
        let waiting = async {
            while seen != Value::Bool(true) {
                // There is no value while the page is being loaded anew.
                let evaluated = self.page.evaluate(expression).await;
                seen = evaluated.map_or_else(
                    |error| Value::from(error.to_string()),
                    |found| found.value().cloned().unwrap_or_default(),
                );
            }
        };
        if timeout(patience, waiting).await.is_err() {
            panic!("{what} did not happen within {} s, but {seen}", patience.as_secs());
        }
    }

    /// Waits until the first element that matches `selector` has this text.
    pub async fn until_text(&self, selector: &str, text: &str) {
        let quoted = Value::from(text);
        let expression = format!("document.querySelector(`{selector}`)?.textContent === {quoted}");
        self.until(&format!("{selector} is {text}"), &expression).await;
    }

    /// Waits until the page asks for a key.
    pub async fn until_login(&self) {
        self.until("the login form", LOGIN).await;
    }

    /// Types a key into the login form and sends it.
    pub async fn log_in(&self, key: &str) {
        self.until_login().await;
        self.write(key).await;
        self.press("Enter").await;
    }

    /// Waits until the page is live.
    pub async fn until_live(&self) {
        self.until("live", LIVE).await;
    }

    /// Clicks the first element that matches `selector`.
    pub async fn click(&self, selector: &str) {
        let element = self.page.find_element(selector).await.unwrap_or_else(|error| panic!("{error}: {selector}"));
        element.click().await.unwrap_or_else(|error| panic!("{error}: {selector}"));
    }

    /// Presses the mouse button on the first element that matches `selector`.
    pub async fn hold_down(&self, selector: &str) {
        self.mouse(selector, DispatchMouseEventType::MousePressed).await;
    }

    /// Releases the mouse button on the first element that matches `selector`.
    pub async fn let_go(&self, selector: &str) {
        self.mouse(selector, DispatchMouseEventType::MouseReleased).await;
    }

    async fn mouse(&self, selector: &str, kind: DispatchMouseEventType) {
        let element = self.page.find_element(selector).await.unwrap_or_else(|error| panic!("{error}: {selector}"));
        let at = element.clickable_point().await.expect("on the page");
        let event = DispatchMouseEventParams::builder().r#type(kind).x(at.x).y(at.y);
        let event = event.button(MouseButton::Left).click_count(1).build().expect("an event");
        self.page.execute(event).await.expect("done");
    }

    /// Presses a key as the keyboard would: `Tab`, `Enter`, `Escape`, `ArrowLeft`, or a single letter or space.
    pub async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, Some("\r")),
            "Tab" => (9, None),
            "Escape" => (27, None),
            "ArrowLeft" => (37, None),
            letter => (0, Some(letter)),
        };
        for kind in [DispatchKeyEventType::KeyDown, DispatchKeyEventType::KeyUp] {
            let mut event = DispatchKeyEventParams::builder().r#type(kind).key(key).windows_virtual_key_code(code);
            if let Some(text) = text {
                event = event.text(text);
            }
            self.page.execute(event.build().expect("a key")).await.expect("pressed");
        }
    }

    /// Presses `Tab` until the focus is on an element that matches `selector`.
    pub async fn reach(&self, selector: &str) {
        let expression = format!("document.activeElement.matches(`{selector}`)");
        let walking = async {
            while self.value(&expression).await != Value::Bool(true) {
                self.press("Tab").await;
            }
        };
        soon(selector, walking).await;
    }

    /// Types a text into the element that has the focus.
    pub async fn write(&self, text: &str) {
        for letter in text.chars() {
            self.press(&letter.to_string()).await;
        }
    }

    /// Pastes what was copied into the element that has the focus.
    pub async fn paste(&self) {
        let event = DispatchKeyEventParams::builder().r#type(DispatchKeyEventType::RawKeyDown).key("v");
        self.page.execute(event.command("paste").build().expect("a key")).await.expect("pasted");
    }

    pub async fn reload(&self) {
        self.page.reload().await.expect("the page again");
        self.until_live().await;
    }

    /// Writes a picture of the page, for people to look at.
    pub async fn picture(&self, path: &Path) {
        let parameters = chromiumoxide::page::ScreenshotParams::builder().full_page(true).build();
        self.page.save_screenshot(parameters, path).await.expect("a picture");
    }

    /// Closes the browser and checks that its console shows no error.
    pub async fn close_cleanly(self) {
        let problems = self.close().await;
        assert!(problems.is_empty(), "on the console: {problems:#?}");
    }

    /// Closes the browser. Returns the errors of its console.
    pub async fn close(mut self) -> Vec<String> {
        self.browser.close().await.expect("closed");
        self.browser.wait().await.expect("ended");
        drop(self.profile);
        std::mem::take(&mut *self.problems.lock().expect("no panic"))
    }
}
