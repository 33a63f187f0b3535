//! Reads a request: its model, whether it asks for a stream, and the change of its body that asks for usage.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::dialect::{Asked, MODEL_MAX, Splice};
use crate::domain::ids::ModelId;
use crate::domain::request::ApiKind;

/// The member that asks for usage in a stream.
const OPTION: &str = r#""stream_options":{"include_usage":true}"#;

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
}

/// Reads a request from its whole body.
///
/// # Errors
/// What is wrong with the body, in words for the client.
pub fn read(bytes: &Bytes, api_kind: ApiKind) -> Result<Asked, String> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("the request body is not a JSON object".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("the request body is not UTF-8: {error}"))?;
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|error| format!("the request body is not valid JSON: {error}"))?;
    let model = fields.model.ok_or("`model` is missing")?;
    let model: String = serde_json::from_str(model.get()).map_err(|_| "`model` must be a string".to_owned())?;
    if !(1..=MODEL_MAX).contains(&model.len()) {
        return Err(format!("`model` must have 1 to {MODEL_MAX} bytes"));
    }
    let stream = fields.stream.is_some_and(|stream| stream.get() == "true");
    let can_be_asked = stream && has_usage_option(api_kind);
    let usage_option = if can_be_asked { usage_option(bytes, fields.stream_options) } else { None };
    Ok(Asked { model: ModelId::from(model.as_str()), stream, usage_option })
}

/// Tells whether a stream of this API reports its usage only when asked by `stream_options.include_usage`.
fn has_usage_option(api_kind: ApiKind) -> bool {
    match api_kind {
        ApiKind::ChatCompletions | ApiKind::Completions => true,
        ApiKind::Embeddings | ApiKind::Responses => false,
    }
}

/// Returns the change of the body that asks for usage; `None` if the client asks for usage, or if `stream_options` is
/// no object.
fn usage_option(bytes: &Bytes, given: Option<&RawValue>) -> Option<Splice> {
    let Some(given) = given else {
        let start = memchr::memchr(b'{', bytes)? + 1;
        return Some(Splice { range: start..start, text: format!("{OPTION},") });
    };
    let options: Option<Map<String, Value>> = serde_json::from_str(given.get()).ok()?;
    let mut options = options.unwrap_or_default();
    match options.insert("include_usage".to_owned(), Value::Bool(true)) {
        None | Some(Value::Null | Value::Bool(false)) => {}
        // The client asks for usage, or `include_usage` has a wrong type, which the endpoint must judge.
        Some(_) => return None,
    }
    let text = serde_json::to_string(&options).ok()?;
    Some(Splice { range: range_of(bytes, given), text })
}

/// Reads a field that is present as `Some`, even if its value is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Returns where in `bytes` a value borrowed from it stands.
fn range_of(bytes: &Bytes, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - bytes.as_ptr() as usize;
    start..start + value.get().len()
}
