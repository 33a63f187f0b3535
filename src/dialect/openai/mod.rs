//! The API of OpenAI.

pub mod error;
