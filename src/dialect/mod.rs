//! The APIs that clients and endpoints speak. Pure: bytes in, bytes out.
//!
//! A dialect knows how a request names its model and asks for a stream, how a stream says that it is complete, where the
//! usage stands, and how an error looks. Nothing outside this module asks which API it is. A second API is a module beside
//! `openai` and a variant of [`Dialect`]; the compiler then names every question that the new module must answer.

mod openai;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::domain::request::ApiKind;

/// An API with forms of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The API of OpenAI, which answers on every path that belongs to no other API, too.
    #[default]
    OpenAi,
}

/// An error as Leaseway means it, before a dialect gives it its form.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorParts<'a> {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// The name of the error, for programs.
    pub code: &'a str,
    /// What went wrong, for people.
    pub message: &'a str,
    /// The field of the request that is to blame, if one is.
    pub param: Option<&'a str>,
    /// Fields beyond those that every error has.
    pub details: &'a Map<String, Value>,
}

impl Dialect {
    /// Returns the dialect in which requests of this kind are asked and answered.
    pub fn of(api_kind: ApiKind) -> Self {
        match api_kind {
            ApiKind::ChatCompletions | ApiKind::Completions | ApiKind::Embeddings | ApiKind::Responses => {
                Dialect::OpenAi
            }
        }
    }

    /// Renders an error as the JSON body of an answer.
    pub fn error_body(self, error: &ErrorParts<'_>) -> Value {
        match self {
            Dialect::OpenAi => openai::error::body(error),
        }
    }

    /// Renders an error as an event of a stream that has begun.
    pub fn error_event(self, error: &ErrorParts<'_>) -> Bytes {
        match self {
            Dialect::OpenAi => openai::error::event(&openai::error::body(error)),
        }
    }

    /// Renders an endpoint's own error, as its JSON answer has it, as an event of a stream; `None` if the answer holds no
    /// error.
    pub fn relayed_error_event(self, answer: &[u8]) -> Option<Bytes> {
        match self {
            Dialect::OpenAi => openai::error::relayed_event(answer),
        }
    }
}
