//! Reads the numbers of tokens that endpoints report.

use serde::Deserialize;

use crate::domain::request::TokenCount;

/// The most tokens an answer can have. An endpoint that reports more has miscounted.
const TOKENS_MAX: u64 = u32::MAX as u64;

/// The usage object of an answer. The aliases are the names of the Responses API.
#[derive(Clone, Copy, Deserialize)]
pub struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
}

impl Usage {
    /// Returns the tokens; `None` if a number is missing or too large. Usage without output tokens, as embeddings have
    /// it, counts zero of them.
    pub fn token_count(self) -> Option<TokenCount> {
        if self.prompt_tokens.max(self.completion_tokens) > Some(TOKENS_MAX) {
            return None;
        }
        let input = self.prompt_tokens;
        let output = self.completion_tokens.or(input.map(|_| 0))?;
        Some(TokenCount { input, output, estimated: false })
    }
}

/// The `timings` of an answer, which llama.cpp sends unasked.
#[derive(Clone, Copy, Deserialize)]
pub struct Timings {
    /// Tokens of the prompt that llama.cpp had in its cache.
    cache_n: Option<u64>,
    /// Tokens of the prompt that llama.cpp had to process.
    prompt_n: Option<u64>,
    /// Tokens of the answer so far.
    predicted_n: Option<u64>,
}

impl Timings {
    /// Returns the tokens; `None` if those of the answer are missing or a number is too large.
    pub fn token_count(self) -> Option<TokenCount> {
        let prompt_tokens = self.prompt_n.map(|read| read.saturating_add(self.cache_n.unwrap_or(0)));
        let completion_tokens = Some(self.predicted_n?);
        Usage { prompt_tokens, completion_tokens }.token_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_answer_can_have_counts_for_nothing() {
        let count = |json: &str| serde_json::from_str::<Usage>(json).expect("usage").token_count();
        let counted = |input, output| Some(TokenCount { input, output, estimated: false });
        assert_eq!(count(r#"{"prompt_tokens":3,"completion_tokens":5}"#), counted(Some(3), 5));
        assert_eq!(count(r#"{"input_tokens":3,"output_tokens":4294967295}"#), counted(Some(3), 4_294_967_295));
        assert_eq!(count(r#"{"prompt_tokens":3,"total_tokens":3}"#), counted(Some(3), 0));
        assert_eq!(count(r#"{"completion_tokens":5}"#), counted(None, 5));
        for nonsense in ["{}", r#"{"completion_tokens":18446744073709551615}"#, r#"{"prompt_tokens":4294967296}"#] {
            assert_eq!(count(nonsense), None, "{nonsense}");
        }
    }
}
