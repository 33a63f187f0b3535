//! Calls the API of a running Leaseway for an operator at the command line.

use std::time::Duration;

use actix_web::http::Method;
use serde_json::Value;

use super::client::build_client;
use crate::config::UpstreamConfig;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// A running Leaseway and the key by which its operator is known.
pub struct Server {
    /// Its address, as `http://127.0.0.1:8420`.
    pub url: String,
    /// The key; `None` while access is open.
    pub key: Option<String>,
}

impl Server {
    /// Sends a request and returns the JSON of its answer, `Null` if the answer has no body.
    ///
    /// # Errors
    /// If there is no answer, or the answer is an error: what it says.
    pub async fn call(
        &self,
        config: &UpstreamConfig,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, String> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let client = build_client(config, url.starts_with("https://"));
        let mut request = client.request(method, &url).timeout(ANSWER_TIMEOUT).force_close();
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let sent = match body {
            Some(body) => request.send_json(&body),
            None => request.send(),
        };
        let mut answer = sent.await.map_err(|error| format!("{} cannot be reached: {error}", self.url))?;
        let bytes = answer.body().limit(ANSWER_MAX).await.map_err(|error| format!("{}: {error}", self.url))?;
        let json: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if answer.status().is_success() {
            return Ok(json);
        }
        let said = json["error"]["message"].as_str().unwrap_or("the answer says nothing more");
        Err(format!("{} answered {}: {said}", self.url, answer.status().as_u16()))
    }
}
