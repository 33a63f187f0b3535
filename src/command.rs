//! The commands by which an operator manages keys, on a running Leaseway or on the database of one that is stopped.

use std::time::Duration;

use actix_web::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actors::keyring::new_secret;
use crate::clock;
use crate::config::UpstreamConfig;
use crate::domain::ids::KeyId;
use crate::domain::keys::{Key, KeyChanges, KeyDefinition, Keyring, Scope, check_key_name};
use crate::store::Store;
use crate::upstream::operator::Server;

/// What is done with keys.
pub enum KeysCommand {
    /// Makes a key.
    Add {
        /// The name of the key.
        name: String,
        /// What the key may be used for.
        scopes: Vec<Scope>,
    },
    /// Lists the keys.
    List,
    /// Removes the key of this name.
    Revoke(String),
    /// Exchanges the secret of a key.
    Rotate {
        /// The name of the key.
        name: String,
        /// How long the old secret stays valid, in seconds.
        grace_secs: u64,
    },
}

impl KeysCommand {
    /// Carries the command out on a running Leaseway. Returns what is printed.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn on_server(self, server: &Server, config: &UpstreamConfig) -> Result<String, String> {
        let call = async |method, path: &str, body| server.call(config, method, path, body).await;
        let path_of = async |name: &str| {
            let keys = call(Method::GET, "/api/keys", None).await?;
            let found = keys.as_array().into_iter().flatten().find(|key| key["name"] == name);
            let id = found.and_then(|key| key["id"].as_str()).ok_or_else(|| no_key(name))?;
            Ok::<_, String>(format!("/api/keys/{id}"))
        };
        match self {
            KeysCommand::Add { name, scopes } => {
                let scopes: Vec<&str> = scopes.into_iter().map(Scope::as_str).collect();
                let body = json!({ "name": name, "scopes": scopes });
                secret_in(&call(Method::POST, "/api/keys", Some(body)).await?)
            }
            KeysCommand::List => {
                Ok(table(call(Method::GET, "/api/keys", None).await?.as_array().unwrap_or(&Vec::new())))
            }
            KeysCommand::Revoke(name) => {
                call(Method::DELETE, &path_of(&name).await?, None).await?;
                Ok(format!("revoked {name}"))
            }
            KeysCommand::Rotate { name, grace_secs } => {
                let path = format!("{}/rotate", path_of(&name).await?);
                secret_in(&call(Method::POST, &path, Some(json!({ "grace_secs": grace_secs }))).await?)
            }
        }
    }

    /// Carries the command out on the database of a Leaseway that is stopped. Returns what is printed.
    ///
    /// # Errors
    /// What went wrong.
    pub fn on_database(self, url: &str) -> Result<String, String> {
        let mut store = Store::open(url).map_err(|error| error.to_string())?;
        let ring = Keyring::new(store.load_keys().map_err(|error| error.to_string())?);
        let wall = clock::wall();
        let named = |name: &str| ring.named(name).map(|key| key.id).ok_or_else(|| no_key(name));
        let (secret, hash) = new_secret();
        let (changes, said) = match self {
            KeysCommand::Add { name, scopes } => {
                check_key_name(&name).map_err(|allowed| format!("the name is not allowed; allowed is {allowed}"))?;
                let definition = KeyDefinition { scopes: scopes.into_iter().collect(), ..KeyDefinition::new(name) };
                let added = ring.add(KeyId(Uuid::new_v4()), definition, hash, wall);
                (saved(added.map_err(|error| error.to_string())?), secret)
            }
            KeysCommand::List => {
                let keys: Vec<Value> = ring.list().into_iter().map(|key| json!(key)).collect();
                (KeyChanges::default(), table(&keys))
            }
            KeysCommand::Revoke(name) => {
                let id = named(&name)?;
                ring.remove(id, wall).map_err(|error| error.to_string())?;
                (KeyChanges { saved: Vec::new(), removed: vec![id] }, format!("revoked {name}"))
            }
            KeysCommand::Rotate { name, grace_secs } => {
                let rotated = ring.rotate(named(&name)?, hash, Duration::from_secs(grace_secs), wall);
                (saved(rotated.map_err(|error| error.to_string())?), secret)
            }
        };
        store.save_keys(&changes).map_err(|error| error.to_string())?;
        Ok(said)
    }
}

fn saved(key: Key) -> KeyChanges {
    KeyChanges { saved: vec![key], removed: Vec::new() }
}

fn no_key(name: &str) -> String {
    format!("there is no key named `{name}`")
}

fn secret_in(answer: &Value) -> Result<String, String> {
    answer["key"].as_str().map(str::to_owned).ok_or_else(|| "the answer has no key".to_owned())
}

/// Returns the keys as lines of columns.
fn table(keys: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    let columns = ["name", "prefix", "source", "scopes", "enabled", "expires_at", "last_used_at"];
    let head = columns.map(str::to_uppercase).to_vec();
    let rows = keys.iter().map(|key| columns.iter().map(|column| text(&key[*column])).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |place: usize| lines.iter().map(|line| line[place].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}
