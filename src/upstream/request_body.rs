//! A client's request body, which Leaseway reads once and sends on as it came.
//!
//! To ask an endpoint for usage, a few bytes are put between slices of the original body, which is neither parsed into a
//! tree nor copied.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::dialect::{Asked, Dialect, Splice};
use crate::domain::ids::ModelId;
use crate::domain::request::ApiKind;

/// The largest piece that awc gets at once, in bytes. awc copies each piece into its write buffer.
const PIECE_MAX: usize = 64 * 1024;

/// A request body, with the model and the stream option that it asks for.
#[derive(Debug)]
pub struct RequestBody {
    /// The model that is asked for.
    pub model: ModelId,
    /// True if the client asks for a stream.
    pub stream: bool,
    bytes: Bytes,
    /// The change of the body that asks for usage; `None` if the client itself asks or the API has no such option.
    usage_option: Option<Splice>,
}

impl RequestBody {
    /// Returns the length of the body as the client sent it, in bytes.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Reads the model and the options of a body.
    ///
    /// # Errors
    /// If the body makes no sense; the error is a message for the client.
    pub fn parse(bytes: Bytes, api_kind: ApiKind) -> Result<Self, String> {
        let Asked { model, stream, usage_option } = Dialect::of(api_kind).read_request(&bytes, api_kind)?;
        Ok(Self { model, stream, bytes, usage_option })
    }

    /// Tells whether the body takes more than one piece, so that an endpoint may refuse the body before all of it has come.
    pub fn is_long(&self) -> bool {
        self.bytes.len() > PIECE_MAX
    }

    /// Tells whether Leaseway may ask for usage, because the client does not.
    pub fn can_ask_for_usage(&self) -> bool {
        self.usage_option.is_some()
    }

    /// Returns the body to send: as it came, or, with `ask_for_usage`, with the option that asks for usage.
    pub fn to_send(&self, ask_for_usage: bool) -> Parts {
        match &self.usage_option {
            Some(splice) if ask_for_usage => Parts([
                self.bytes.slice(..splice.range.start),
                Bytes::from(splice.text.clone()),
                self.bytes.slice(splice.range.end..),
            ]),
            _ => Parts([self.bytes.clone(), Bytes::new(), Bytes::new()]),
        }
    }
}

/// A body in up to three parts, which are sent one after the other.
#[derive(Debug)]
pub struct Parts([Bytes; 3]);

impl MessageBody for Parts {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.iter().map(|part| part.len() as u64).sum())
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        for part in &mut self.0 {
            if !part.is_empty() {
                let piece = part.split_to(part.len().min(PIECE_MAX));
                return Poll::Ready(Some(Ok(piece)));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestBody, String> {
        RequestBody::parse(Bytes::copy_from_slice(text.as_bytes()), ApiKind::ChatCompletions)
    }

    fn sent(text: &str) -> String {
        let parts = parse(text).expect("a good body").to_send(true);
        String::from_utf8(parts.0.concat()).expect("text")
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "not a JSON object");
        check("{\"model\":", "not valid JSON: EOF");
        check("[1]", "not a JSON object");
        check("{}", "`model` is missing");
        check("{\"model\":null}", "`model` must be a string");
        check("{\"model\":7}", "`model` must be a string");
        check("{\"model\":\"\"}", "`model` must have 1 to 512 bytes");
        check(&format!("{{\"model\":\"{}\"}}", "m".repeat(513)), "`model` must have 1 to 512 bytes");
        check("{\"model\":\"a\"} x", "trailing characters");
        check("{\"model\":\"a\",\"model\":\"b\"}", "duplicate field `model`");
    }

    #[test]
    fn a_body_is_sent_as_it_came() {
        for text in [
            r#"{"model":"a","stream":false}"#,
            r#" {"stream":true, "model" : "a","stream_options":{"include_usage":true},"x":[1e400]}"#,
            r#"{"model":"a","stream":true,"stream_options":"odd"}"#,
            r#"{"model":"a","stream":true,"stream_options":{"include_usage":"yes"}}"#,
        ] {
            assert!(!parse(text).expect("a good body").can_ask_for_usage(), "{text}");
            assert_eq!(sent(text), text);
        }
    }

    #[test]
    fn usage_is_asked_for_without_touching_the_rest() {
        let check = |text: &str, expected: &str| assert_eq!(sent(text), expected);
        check(
            r#" { "model":"a","stream":true}"#,
            r#" {"stream_options":{"include_usage":true}, "model":"a","stream":true}"#,
        );
        check(
            r#"{"model":"a","stream_options":null,"stream":true}"#,
            r#"{"model":"a","stream_options":{"include_usage":true},"stream":true}"#,
        );
        check(
            r#"{"model":"a","stream":true,"stream_options":{"x":1,"include_usage":false}}"#,
            r#"{"model":"a","stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
        );
    }

    #[test]
    fn only_streams_that_can_be_asked_are_asked() {
        let bytes = Bytes::from_static(br#"{"model":"a","stream":true}"#);
        let can_ask = |api_kind| RequestBody::parse(bytes.clone(), api_kind).expect("good").can_ask_for_usage();
        assert!(can_ask(ApiKind::ChatCompletions) && can_ask(ApiKind::Completions));
        assert!(!can_ask(ApiKind::Responses) && !can_ask(ApiKind::Embeddings));
    }

    #[test]
    fn what_is_not_utf_8_is_not_json() {
        let bytes = Bytes::from_static(b"{\"model\":\"a\",\"x\":\"\xff\"}");
        let error = RequestBody::parse(bytes, ApiKind::Completions).expect_err("not UTF-8");
        assert!(error.contains("not UTF-8"), "{error}");
    }

    #[test]
    fn an_escaped_model_name_is_read() {
        assert_eq!(parse(r#"{"model":"\u0061/b"}"#).expect("good").model.as_str(), "a/b");
    }
}
