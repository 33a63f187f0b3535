//! Reads the usage and the model of a JSON answer while it is relayed. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::dialect::Dialect;
use crate::domain::ids::ModelId;
use crate::domain::request::TokenCount;

/// How much of an answer's end is searched for its usage, in bytes.
const TAIL: usize = 32 * 1024;

/// How much of an answer's beginning is searched for its model, in bytes.
const HEAD: usize = 1024;

/// Keeps the beginning and the end of a JSON answer, which hold its model and its usage, without copying them.
#[derive(Debug)]
pub struct JsonMeter {
    dialect: Dialect,
    /// The beginning of the answer, at most [`HEAD`] bytes.
    head: Option<Bytes>,
    /// The last pieces of the answer. The first of them is dropped once the others have [`TAIL`] bytes.
    tail: VecDeque<Bytes>,
    /// The length of `tail`, in bytes.
    length: usize,
}

impl JsonMeter {
    /// Creates a meter of an answer in this dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, head: None, tail: VecDeque::new(), length: 0 }
    }

    /// Notes the bytes that were read.
    pub fn observe(&mut self, read: &Bytes) {
        self.head.get_or_insert_with(|| read.slice(..read.len().min(HEAD)));
        self.tail.push_back(read.clone());
        self.length += read.len();
        while let Some(first) = self.tail.front()
            && self.length - first.len() >= TAIL
        {
            self.length -= first.len();
            self.tail.pop_front();
        }
    }

    /// Returns the usage that the answer reports; `None` if it reports none.
    pub fn tokens(&mut self) -> Option<TokenCount> {
        let tail = match self.tail.len() {
            0 => return None,
            1 => self.tail.pop_front()?,
            _ => Bytes::from(std::mem::take(&mut self.tail).into_iter().flatten().collect::<Vec<u8>>()),
        };
        let tail = &tail[tail.len().saturating_sub(TAIL)..];
        self.dialect.tokens_of_answer(tail)
    }

    /// Returns the model that the answer names, if it is not `asked`. Must be called before [`JsonMeter::tokens`], which takes the
    /// end of the answer.
    pub fn other_model(&self, asked: &ModelId) -> Option<ModelId> {
        let mut parts = self.head.iter().chain(&self.tail);
        parts.find_map(|part| self.dialect.model_of_answer(part)).filter(|model| model != asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_json_answer_is_found_at_its_end() {
        let check = |text: &str, expected: Option<(Option<u64>, u64)>| {
            for size in [1, 7, 100_000] {
                let mut meter = JsonMeter::new(Dialect::OpenAi);
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
