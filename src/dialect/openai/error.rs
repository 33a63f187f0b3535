//! Writes errors in the form that OpenAI's SDKs read.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::ErrorParts;

/// Returns the body of an answer: `{"error": {message, type, param, code}}`. The details stand both in `error`, where
/// SDKs show them, and beside it.
pub fn body(error: &ErrorParts<'_>) -> Value {
    let mut inner = error.details.clone();
    inner.insert("message".to_owned(), json!(error.message));
    inner.insert("type".to_owned(), json!(kind(error.status)));
    inner.insert("param".to_owned(), json!(error.param));
    inner.insert("code".to_owned(), json!(error.code));
    let mut outer = error.details.clone();
    outer.insert("error".to_owned(), Value::Object(inner));
    Value::Object(outer)
}

/// Returns an event with this body as its data. SDKs raise an exception for an event with `error`.
pub fn event(body: &Value) -> Bytes {
    format!("data: {body}\n\n").into()
}

/// Returns an endpoint's error as an event on one line; `None` if the answer is not JSON or has no `error`.
pub fn relayed_event(answer: &[u8]) -> Option<Bytes> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    answer.get("error")?;
    Some(event(&answer))
}

/// Returns the `type` of errors with this HTTP status.
fn kind(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_exceeded",
        504 => "timeout",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_form_that_sdks_read() {
        let mut details = serde_json::Map::new();
        details.insert("retry_after".to_owned(), json!(7));
        let check = |status, kind: &str| {
            let parts = ErrorParts { status, code: "c", message: "m", param: None, details: &details };
            let error = json!({ "message": "m", "type": kind, "param": null, "code": "c", "retry_after": 7 });
            assert_eq!(body(&parts), json!({ "error": error, "retry_after": 7 }));
        };
        check(400, "invalid_request_error");
        check(421, "invalid_request_error");
        check(429, "rate_limit_exceeded");
        check(502, "server_error");
        check(504, "timeout");
    }

    #[test]
    fn an_endpoints_error_becomes_one_line() {
        let event = |answer: &[u8]| relayed_event(answer).map(|event| String::from_utf8_lossy(&event).into_owned());
        assert_eq!(
            event(b"{\n \"error\": {\"message\": \"a\\nb\"}\n}").as_deref(),
            Some("data: {\"error\":{\"message\":\"a\\nb\"}}\n\n")
        );
        assert_eq!(event(b"{\"detail\":1}"), None);
        assert_eq!(event(b"<html>"), None);
    }
}
