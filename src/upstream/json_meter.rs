//! Reads the usage of a JSON answer as it goes by. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use super::usage::Usage;
use crate::domain::request::TokenCount;

/// How much of an answer's end is searched for its usage, in bytes.
const TAIL: usize = 32 * 1024;

/// Keeps the end of a JSON answer, where its usage stands, without copying it.
#[derive(Debug, Default)]
pub struct JsonMeter {
    tail: VecDeque<Bytes>,
    length: usize,
}

impl JsonMeter {
    /// Takes note of what was read.
    pub fn observe(&mut self, read: &Bytes) {
        self.tail.push_back(read.clone());
        self.length += read.len();
        while let Some(first) = self.tail.front()
            && self.length - first.len() >= TAIL
        {
            self.length -= first.len();
            self.tail.pop_front();
        }
    }

    /// Returns the usage that the answer reports.
    pub fn tokens(&mut self) -> Option<TokenCount> {
        let tail = match self.tail.len() {
            0 => return None,
            1 => self.tail.pop_front()?,
            _ => Bytes::from(std::mem::take(&mut self.tail).into_iter().flatten().collect::<Vec<u8>>()),
        };
        let tail = &tail[tail.len().saturating_sub(TAIL)..];
        // A `"usage"` with bare quotation marks cannot stand inside a JSON text.
        memchr::memmem::rfind_iter(tail, b"\"usage\"").find_map(|at| {
            let value = tail[at + b"\"usage\"".len()..].trim_ascii_start().strip_prefix(b":")?;
            let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Option<Usage>>();
            values.next()?.ok()??.token_count()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_json_answer_is_found_at_its_end() {
        let check = |text: &str, expected: Option<(Option<u64>, u64)>| {
            for size in [1, 7, 100_000] {
                let mut meter = JsonMeter::default();
                for piece in text.as_bytes().chunks(size) {
                    meter.observe(&Bytes::copy_from_slice(piece));
                }
                assert_eq!(meter.tokens().map(|tokens| (tokens.input, tokens.output)), expected, "{text:.60}");
            }
        };
        let answer = |content: &str| {
            format!(
                r#"{{"choices":[{{"message":{{"content":"{content}"}}}}],"usage": {{"prompt_tokens":5,"completion_tokens":7}},"id":"x"}}"#
            )
        };
        check(&answer("hi"), Some((Some(5), 7)));
        check(&answer(&"long ".repeat(50_000)), Some((Some(5), 7)));
        check(&answer(r#"say \"usage\": {\"prompt_tokens\":1}"#), Some((Some(5), 7)));
        check(r#"{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}"#, Some((Some(5), 0)));
        check(r#"{"usage":{"input_tokens":1,"output_tokens":2},"metadata":{}}"#, Some((Some(1), 2)));
        check(r#"{"usage":null}"#, None);
        check(r#"{"error":{"message":"no"}}"#, None);
        check("", None);
    }
}
