//! The APIs that clients and endpoints speak. Pure: bytes in, bytes out.
//!
//! A dialect knows how a request names its model and asks for a stream, how a stream says that it is complete, where the
//! usage stands, and how an error looks. Nothing outside this module asks which API it is. A second API is a module beside
//! `openai` and a variant of [`Dialect`]; the compiler then names every question that the new module must answer.

mod openai;

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::domain::ids::ModelId;
use crate::domain::request::{ApiKind, TokenCount};

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

/// The longest name of a model, in bytes.
pub const MODEL_MAX: usize = 512;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The model, 1 to [`MODEL_MAX`] bytes.
    pub model: ModelId,
    /// The client asks for a stream.
    pub stream: bool,
    /// How to ask for usage in the client's place; `None` if the client has asked, or if there is no way.
    pub usage_option: Option<Splice>,
}

/// A text in place of a range of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The bytes that the text replaces; may be empty.
    pub range: Range<usize>,
    /// The text.
    pub text: String,
}

/// What one event of a stream says.
#[derive(Debug, Default)]
pub struct Event {
    /// Nothing follows.
    pub is_done: bool,
    /// The answer is complete, although events may follow.
    pub is_complete: bool,
    /// The event carries a piece of the answer.
    pub has_content: bool,
    /// The tokens of the answer so far, if the event counts them.
    pub tokens: Option<TokenCount>,
    /// The model that answers, if the event names it.
    pub model: Option<ModelId>,
    /// What is there only because Leaseway asked for usage, if it did.
    pub added: Added,
}

/// The part of an event that an endpoint added for usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Added {
    /// No part.
    #[default]
    Nothing,
    /// The whole event.
    Event,
    /// These bytes of the event's data.
    Member(Range<usize>),
}

/// Returns the name of a model unless it is empty or longer than a client could ask for.
fn model_name(name: &str) -> Option<ModelId> {
    (1..=MODEL_MAX).contains(&name.len()).then(|| ModelId::from(name))
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

    /// Reads a request.
    ///
    /// # Errors
    /// What is wrong, in words for the client.
    pub fn read_request(self, body: &Bytes, api_kind: ApiKind) -> Result<Asked, String> {
        match self {
            Dialect::OpenAi => openai::request::read(body, api_kind),
        }
    }

    /// Reads the data of one event of a stream.
    pub fn read_event(self, data: &[u8]) -> Event {
        match self {
            Dialect::OpenAi => openai::event::read(data),
        }
    }

    /// Returns the tokens that a whole answer counts, given its last part.
    pub fn tokens_of_answer(self, tail: &[u8]) -> Option<TokenCount> {
        match self {
            Dialect::OpenAi => openai::answer::tokens(tail),
        }
    }

    /// Returns the model that a part of a whole answer names.
    pub fn model_of_answer(self, part: &[u8]) -> Option<ModelId> {
        match self {
            Dialect::OpenAi => openai::answer::model(part),
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
