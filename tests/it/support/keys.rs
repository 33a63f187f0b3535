//! Keys that Leaseway has from the start of a test.

use leaseway::config::Config;
use leaseway::domain::keys::{GivenKey, KeyDefinition, KeyHash, KeySource, Scope};

use super::TestApp;

/// Returns the secret of the given key with this name.
pub fn secret_of(name: &str) -> String {
    format!("the-secret-of-{name}")
}

/// Returns a key of the config file.
pub fn given_key(name: &str, scope: Scope) -> GivenKey {
    let secret = secret_of(name);
    GivenKey {
        definition: KeyDefinition { scopes: [scope].into(), ..KeyDefinition::new(name) },
        source: KeySource::File,
        hash: KeyHash::of(secret.as_bytes()),
        prefix: secret[..8].to_owned(),
    }
}

/// Starts Leaseway with these keys and with the admin key `root`, which is the test's own.
pub async fn start_with_keys(keys: Vec<GivenKey>) -> TestApp {
    let all = [vec![given_key("root", Scope::Admin)], keys].concat();
    let mut app = TestApp::with(|config: &mut Config| config.keys = all).await;
    app.key = Some(secret_of("root"));
    app
}
