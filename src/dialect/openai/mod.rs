//! The API of OpenAI.

pub mod answer;
pub mod error;
pub mod event;
pub mod request;
mod usage;
