//! Reads usage and model from an answer that is one JSON object and no stream.

use super::usage::Usage;
use crate::dialect::model_name;
use crate::domain::ids::ModelId;
use crate::domain::request::TokenCount;

/// Returns the tokens of the last usage in `tail`, the last part of an answer.
pub fn tokens(tail: &[u8]) -> Option<TokenCount> {
    // Inside a JSON string the quotation marks would be escaped, so `"usage"` is a key.
    memchr::memmem::rfind_iter(tail, b"\"usage\"").find_map(|at| {
        let value = tail[at + b"\"usage\"".len()..].trim_ascii_start().strip_prefix(b":")?;
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Option<Usage>>();
        values.next()?.ok()??.token_count()
    })
}

/// Returns the model that a part of an answer names first; `None` if the part names none, or cuts its name off.
pub fn model(part: &[u8]) -> Option<ModelId> {
    memchr::memmem::find_iter(part, b"\"model\"").find_map(|at| {
        let value = part[at + b"\"model\"".len()..].trim_ascii_start().strip_prefix(b":")?;
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<String>();
        model_name(&values.next()?.ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_an_answer_is_found() {
        let check = |part: &str, expected: Option<&str>| {
            assert_eq!(model(part.as_bytes()).as_ref().map(ModelId::as_str), expected, "{part}");
        };
        check(r#"{"id":"x","model" : "a","choices":[]}"#, Some("a"));
        check(r#"{"choices":[{"text":"say \"model\":\"b\""}],"model":"a\u002fb"}"#, Some("a/b"));
        check(r#"{"id":"x","model":"cut o"#, None);
        check(r#"{"model":7}"#, None);
    }
}
