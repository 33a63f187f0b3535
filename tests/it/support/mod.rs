//! The building blocks of the tests.

pub mod browser;
pub mod certificates;
pub mod database;
pub mod fake_endpoint;
pub mod keys;
pub mod process;
pub mod raw;
pub mod test_app;

use std::time::Duration;

use tokio::time::timeout;

pub use self::fake_endpoint::{FakeEndpoint, Step};
pub use self::raw::RawClient;
pub use self::test_app::TestApp;

/// How long a test waits for anything before it fails. A busy machine takes many times as long as an idle one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that must happen, and fails if it does not happen in time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {} s", PATIENCE.as_secs()),
    }
}

/// Returns a chat request for `model`.
pub fn chat(model: &str, stream: bool) -> serde_json::Value {
    serde_json::json!({
        "model": model,
        "stream": stream,
        "messages": [{ "role": "user", "content": "Hello" }],
    })
}
