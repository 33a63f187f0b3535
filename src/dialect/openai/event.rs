//! Reads one event of a stream: content, usage, the end, and the part that is there only because usage was asked for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::usage::{Timings, Usage};
use crate::dialect::{Added, Event, model_name};

/// The members that every chunk may have; `obfuscation` only pads it. A chunk of usage without any other member is sent
/// only for the usage.
const COMMON: [&str; 9] =
    ["id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"];

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<Usage>,
    /// An object if the engine is llama.cpp; other engines may send anything.
    #[serde(borrow)]
    timings: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    finish_reason: Option<IgnoredAny>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "reasoning")]
    reasoning_content: Option<Cow<'a, str>>,
    tool_calls: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Response {
    usage: Option<Usage>,
}

impl Choice<'_> {
    fn has_content(&self) -> bool {
        let filled = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
        let in_delta = |delta: &Delta<'_>| {
            filled(&delta.content) || filled(&delta.reasoning_content) || delta.tool_calls.is_some()
        };
        filled(&self.text) || self.delta.as_ref().is_some_and(in_delta)
    }
}

/// Reads the data of one event. Data that are no JSON object give an event that says nothing.
pub fn read(data: &[u8]) -> Event {
    if data == b"[DONE]" {
        return Event { is_done: true, is_complete: true, ..Event::default() };
    }
    let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else { return Event::default() };
    let of_response = chunk.response.and_then(|response| response.usage);
    let usage = chunk.usage.or(of_response).and_then(Usage::token_count);
    let kind = chunk.kind.as_deref();
    let choices = chunk.choices.unwrap_or_default();
    let is_usage_only = choices.is_empty() && kind.is_none() && usage.is_some();
    Event {
        is_done: false,
        is_complete: matches!(kind, Some("response.completed" | "response.failed" | "response.incomplete"))
            || choices.iter().any(|choice| choice.finish_reason.is_some()),
        has_content: kind.is_some_and(|kind| kind.ends_with(".delta")) || choices.iter().any(Choice::has_content),
        tokens: usage.or_else(|| serde_json::from_str::<Timings>(chunk.timings?.get()).ok()?.token_count()),
        model: chunk.model.and_then(|model| model_name(&model)),
        added: if is_usage_only { added(data) } else { Added::Nothing },
    }
}

/// Returns the part of a chunk with usage and without choices that an engine sends only if it is asked for usage.
fn added(data: &[u8]) -> Added {
    let Ok(members) = serde_json::from_slice::<HashMap<Cow<'_, str>, &RawValue>>(data) else { return Added::Nothing };
    let says_more = |(name, value): (&Cow<'_, str>, &&RawValue)| !COMMON.contains(&&**name) && value.get() != "null";
    if !members.iter().any(says_more) {
        return Added::Event;
    }
    members.get("usage").and_then(|usage| member(data, usage)).map_or(Added::Nothing, Added::Member)
}

/// Returns the range of the member `usage` with this value, together with one comma beside it.
fn member(data: &[u8], value: &RawValue) -> Option<Range<usize>> {
    let start = value.get().as_ptr() as usize - data.as_ptr() as usize;
    let before = data[..start].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"usage\"")?;
    let end = start + value.get().len();
    let after = data[end..].trim_ascii_start();
    match (after.strip_prefix(b","), before.trim_ascii_end().strip_suffix(b",")) {
        (Some(after), _) => Some(before.len()..data.len() - after.len()),
        (None, Some(before)) => Some(before.len()..end),
        (None, None) => Some(before.len()..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_chunk_with_usage_only_what_was_added_is_hidden() {
        let check = |data: &str, expected: &str| {
            let left = match read(data.as_bytes()).added {
                Added::Nothing => data.to_owned(),
                Added::Event => String::new(),
                Added::Member(range) => [&data[..range.start], &data[range.end..]].concat(),
            };
            assert_eq!(left, expected, "{data}");
        };
        let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":9}"#;
        check(&format!(r#"{{"choices":[],{usage}}}"#), "");
        check(&format!(r#"{{"id":"x","object":"chat.completion.chunk","choices":[],"x":null,{usage}}}"#), "");
        check(&format!(r#"{{"choices":[],{usage},"timings":{{"n":1}}}}"#), r#"{"choices":[],"timings":{"n":1}}"#);
        check(&format!(r#"{{"choices":[],"timings":{{"n":1}},{usage}}}"#), r#"{"choices":[],"timings":{"n":1}}"#);
        check(&format!(r#"{{{usage} , "timings":1,"choices":[]}}"#), r#"{ "timings":1,"choices":[]}"#);
        let beside_content = format!(r#"{{"choices":[{{"delta":{{"content":"x"}}}}],{usage}}}"#);
        check(&beside_content, &beside_content);
        check(r#"{"choices":[],"usage":null}"#, r#"{"choices":[],"usage":null}"#);
    }

    #[test]
    fn llama_cpp_counts_tokens_in_its_timings() {
        let chunk = r#"{"choices":[{"finish_reason":"stop","delta":{}}],"timings":{"cache_n":4,"prompt_n":3,"predicted_n":9,"predicted_ms":1.5}}"#;
        let tokens = read(chunk.as_bytes()).tokens.expect("a count");
        assert_eq!((tokens.input, tokens.output, tokens.estimated), (Some(7), 9, false));
    }

    #[test]
    fn an_event_names_its_model_within_bounds() {
        let model = |name: &str| read(format!(r#"{{"choices":[],"model":"{name}"}}"#).as_bytes()).model;
        assert_eq!(model("a/b").map(|model| model.as_str().to_owned()).as_deref(), Some("a/b"));
        assert_eq!((model(""), model(&"x".repeat(513))), (None, None));
    }
}
