//! The API of OpenAI: chat completions, completions, embeddings and responses.

pub mod answer;
pub mod error;
pub mod event;
pub mod request;
mod usage;
