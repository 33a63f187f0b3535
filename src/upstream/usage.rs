//! Usage as endpoints report it.

use serde::Deserialize;

use crate::domain::request::TokenCount;

/// The usage object of an answer; the newer API has other names for the same.
#[derive(Clone, Copy, Deserialize)]
pub struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
}

impl Usage {
    /// Returns what it says; a usage without output tokens, as of embeddings, counts none.
    pub fn token_count(self) -> Option<TokenCount> {
        let input = self.prompt_tokens;
        let output = self.completion_tokens.or(input.map(|_| 0))?;
        Some(TokenCount { input, output, estimated: false })
    }
}
