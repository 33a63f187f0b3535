//! The APIs that clients and endpoints speak. Pure: bytes in, bytes out.
//!
//! A dialect knows how a request names its model and asks for a stream, how a stream says that it is complete, where
//! the usage stands, and how an error looks. No code outside this folder depends on the API. A second API is a module
//! beside `openai` and a variant of [`Dialect`]; the compiler then names every function that the new module must have.

mod openai;

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::domain::ids::ModelId;
use crate::domain::request::{ApiKind, TokenCount};

/// An API with its own form of requests, answers and errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The API of OpenAI. Paths that belong to no API are answered in this dialect, too.
    #[default]
    OpenAi,
}

/// The content of an error, to which a dialect gives its form.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorParts<'a> {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// The name by which programs tell this error from others.
    pub code: &'a str,
    /// What went wrong, for people.
    pub message: &'a str,
    /// The field of the request that caused the error; `None` if no single field did.
    pub param: Option<&'a str>,
    /// Further fields of this error, for example `retry_after`; often empty.
    pub details: &'a Map<String, Value>,
}

/// The longest name of a model, in bytes.
pub const MODEL_MAX: usize = 512;

/// What a dialect reads from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The model, 1 to [`MODEL_MAX`] bytes.
    pub model: ModelId,
    /// The client asks for a stream.
    pub stream: bool,
    /// The change of the body that asks for usage; `None` if the client asks for usage, or if its API has no option for
    /// it.
    pub usage_option: Option<Splice>,
}

/// A change of a body: a text replaces a range of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The bytes that the text replaces; an empty range inserts the text.
    pub range: Range<usize>,
    /// The new text, a part of a JSON object.
    pub text: String,
}

/// What a dialect reads from one event of a stream.
#[derive(Debug, Default)]
pub struct Event {
    /// This is the last event of the stream.
    pub is_done: bool,
    /// The answer is complete, although events may follow.
    pub is_complete: bool,
    /// The event carries a piece of the answer.
    pub has_content: bool,
    /// The tokens of the answer so far, if the event counts them.
    pub tokens: Option<TokenCount>,
    /// The model that answers, if the event names it.
    pub model: Option<ModelId>,
    /// The part that the endpoint sends only if it is asked for usage. This part is hidden from a client that has not
    /// asked.
    pub added: Added,
}

/// The part of an event that an endpoint sends only if it is asked for usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Added {
    /// The endpoint sends the whole event unasked.
    #[default]
    Nothing,
    /// The whole event is sent only if asked for.
    Event,
    /// These bytes of the event's data.
    Member(Range<usize>),
}

/// Returns the name of a model; `None` if it is empty or longer than [`MODEL_MAX`].
fn model_name(name: &str) -> Option<ModelId> {
    (1..=MODEL_MAX).contains(&name.len()).then(|| ModelId::from(name))
}

impl Dialect {
    /// Returns the dialect of requests of this kind and of their answers.
    pub fn of(api_kind: ApiKind) -> Self {
        match api_kind {
            ApiKind::ChatCompletions | ApiKind::Completions | ApiKind::Embeddings | ApiKind::Responses => {
                Dialect::OpenAi
            }
        }
    }

    /// Reads a request from its whole body.
    ///
    /// # Errors
    /// What is wrong with the body, in words for the client.
    pub fn read_request(self, body: &Bytes, api_kind: ApiKind) -> Result<Asked, String> {
        match self {
            Dialect::OpenAi => openai::request::read(body, api_kind),
        }
    }

    /// Reads the data of one event of a stream. Data that cannot be read give an event that says nothing.
    pub fn read_event(self, data: &[u8]) -> Event {
        match self {
            Dialect::OpenAi => openai::event::read(data),
        }
    }

    /// Returns the tokens that an answer counts; `tail` is the last part of its body. `None` if `tail` holds no usage.
    pub fn tokens_of_answer(self, tail: &[u8]) -> Option<TokenCount> {
        match self {
            Dialect::OpenAi => openai::answer::tokens(tail),
        }
    }

    /// Returns the model that an answer names; `part` is a part of its body. `None` if `part` names no model.
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

    /// Renders the error in an endpoint's JSON answer as an event of a stream; `None` if the answer holds no error.
    pub fn relayed_error_event(self, answer: &[u8]) -> Option<Bytes> {
        match self {
            Dialect::OpenAi => openai::error::relayed_event(answer),
        }
    }
}
