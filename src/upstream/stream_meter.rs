//! Reads a stream of server-sent events while it is relayed: usage, content chunks, the end. Pure.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::dialect::{Added, Dialect, Event};
use crate::domain::ids::ModelId;
use crate::domain::request::TokenCount;

/// The longest event that is held back until it is known whether it must be hidden, in bytes.
const EVENT_MAX: usize = 64 * 1024;

/// Measures a stream of server-sent events, and hides the usage that the client did not ask for.
#[derive(Debug)]
pub struct StreamMeter {
    dialect: Dialect,
    hide_usage: bool,
    /// The bytes of an event whose end has not come; at most [`EVENT_MAX`].
    held: Bytes,
    /// True in the middle of an event that is too long to be held.
    passing_long_event: bool,
    usage: Option<TokenCount>,
    content_chunks: u64,
    /// The stream has said that it is complete, by another mark than `[DONE]`.
    complete: bool,
    done: bool,
    /// The first model that the stream named.
    model: Option<ModelId>,
}

impl StreamMeter {
    /// Creates a meter of a stream in this dialect. With `hide_usage` it removes everything that is in the stream only because
    /// Leaseway asked for usage.
    pub fn new(dialect: Dialect, hide_usage: bool) -> Self {
        Self {
            dialect,
            hide_usage,
            held: Bytes::new(),
            passing_long_event: false,
            usage: None,
            content_chunks: 0,
            complete: false,
            done: false,
            model: None,
        }
    }

    /// Returns the first model that the stream named, if it is not `asked`.
    pub fn other_model(&self, asked: &ModelId) -> Option<ModelId> {
        self.model.clone().filter(|model| model != asked)
    }

    /// Takes the bytes that were read and returns the bytes for the client, which may be empty.
    pub fn pass(&mut self, read: Bytes) -> Bytes {
        let seen = if self.held.is_empty() {
            read.clone()
        } else {
            let mut joined = BytesMut::from(std::mem::take(&mut self.held));
            joined.extend_from_slice(&read);
            joined.freeze()
        };
        let complete = last_event_end(&seen);
        let hidden = self.read_events(&seen[..complete]);
        self.hold(seen.slice(complete..));
        if !self.hide_usage {
            return read;
        }
        if hidden.is_empty() {
            return self.released(seen, complete);
        }
        without(&seen[..seen.len() - self.held.len()], &hidden)
    }

    /// Returns the bytes that are still held back when the stream has ended.
    pub fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        let hidden = self.read_events(&held);
        if self.hide_usage { without(&held, &hidden) } else { Bytes::new() }
    }

    /// Tells whether the stream has had any content.
    pub fn has_content(&self) -> bool {
        self.content_chunks > 0
    }

    /// Tells whether the stream has had its `[DONE]`.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Tells whether the stream has said, by any mark, that it is complete.
    pub fn complete(&self) -> bool {
        self.done || self.complete
    }

    /// Returns the reported usage, else the number of content chunks as an estimate; `None` without either.
    pub fn tokens(&self) -> Option<TokenCount> {
        let estimate = TokenCount { input: None, output: self.content_chunks, estimated: true };
        self.usage.or((self.content_chunks > 0).then_some(estimate))
    }

    fn hold(&mut self, rest: Bytes) {
        if rest.len() > EVENT_MAX {
            self.passing_long_event = true;
            self.held = Bytes::new();
        } else {
            self.held = rest;
        }
    }

    fn released(&self, seen: Bytes, complete: usize) -> Bytes {
        if self.passing_long_event && self.held.is_empty() { seen } else { seen.slice(..complete) }
    }

    /// Reads whole events and returns the ranges that must be hidden: those that are there only because Leaseway asked for usage.
    fn read_events(&mut self, events: &[u8]) -> Vec<Range<usize>> {
        let mut hidden = Vec::new();
        let mut event_start = 0;
        let mut hide_event = false;
        let mut start = 0;
        while start < events.len() {
            let end = memchr::memchr(b'\n', &events[start..]).map_or(events.len(), |newline| start + newline + 1);
            let line = events[start..end].trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                let data = data.trim_ascii_start();
                let data_start = start + line.len() - data.len();
                match self.read_data(data) {
                    Added::Nothing => {}
                    Added::Event => hide_event = true,
                    Added::Member(member) => hidden.push(data_start + member.start..data_start + member.end),
                }
            }
            if line.is_empty() {
                if hide_event {
                    hide_event_in(&mut hidden, event_start..end);
                }
                event_start = end;
                hide_event = false;
                self.passing_long_event = false;
            }
            start = end;
        }
        if hide_event {
            hide_event_in(&mut hidden, event_start..events.len());
        }
        hidden
    }

    /// Notes the data of one event. Returns which part of it is there only because Leaseway asked for usage.
    fn read_data(&mut self, data: &[u8]) -> Added {
        let Event { is_done, is_complete, has_content, tokens, model, added } = self.dialect.read_event(data);
        self.done |= is_done;
        self.complete |= is_complete;
        self.content_chunks += u64::from(has_content);
        self.usage = tokens.or(self.usage);
        if self.model.is_none() {
            self.model = model;
        }
        added
    }
}

/// Adds an event to the ranges that are hidden, in place of the parts of the event that are among them.
fn hide_event_in(hidden: &mut Vec<Range<usize>>, event: Range<usize>) {
    hidden.retain(|range| range.end <= event.start);
    hidden.push(event);
}

/// Returns the bytes without these ranges, which must be in order.
fn without(bytes: &[u8], ranges: &[Range<usize>]) -> Bytes {
    let mut rest = BytesMut::with_capacity(bytes.len());
    let mut start = 0;
    for range in ranges {
        rest.extend_from_slice(&bytes[start..range.start]);
        start = range.end;
    }
    rest.extend_from_slice(&bytes[start..]);
    rest.freeze()
}

/// Returns where the last whole event ends: after its blank line; 0 if no event is whole.
fn last_event_end(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    while let Some(newline) = memchr::memrchr(b'\n', &bytes[..end]) {
        let before = &bytes[..newline];
        if before.ends_with(b"\n") || before.ends_with(b"\n\r") || before.is_empty() || before == b"\r" {
            return newline + 1;
        }
        end = newline;
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const CONTENT: &str =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}],\"usage\":null}\n\n";
    const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9,\"total_tokens\":12}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Lines of events, of which an endpoint may make any stream.
    const LINES: [&str; 9] = [
        "\n",
        "\r\n",
        ": ping\n",
        "event: x\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2},\"timings\":{\"x\":1}}\n",
        "data: {\"choices\":[{}],\"usage\":null",
        "data: [DONE]\n",
    ];

    /// Sends a text through a meter in pieces of `size` bytes and returns the text for the client.
    fn through(meter: &mut StreamMeter, text: &str, size: usize) -> String {
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend_from_slice(&meter.pass(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&meter.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_usage_event_is_hidden_however_the_stream_is_cut() {
        let stream = [": hello\n\n", CONTENT, CONTENT, FINISH, USAGE, DONE].concat();
        let expected = stream.replace(USAGE, "");
        for size in 1..=stream.len() {
            let mut meter = StreamMeter::new(Dialect::OpenAi, true);
            assert_eq!(through(&mut meter, &stream, size), expected, "in pieces of {size}");
            assert_eq!(meter.tokens(), Some(TokenCount { input: Some(3), output: 9, estimated: false }));
            assert!(meter.done());
        }
    }

    #[test]
    fn without_hiding_every_read_passes_as_it_came() {
        let stream = [CONTENT, FINISH, USAGE, DONE].concat().replace('\n', "\r\n");
        for size in 1..=stream.len() {
            let mut meter = StreamMeter::new(Dialect::OpenAi, false);
            for piece in stream.as_bytes().chunks(size) {
                assert_eq!(meter.pass(Bytes::copy_from_slice(piece)), piece);
            }
            assert!(meter.finish().is_empty());
            assert_eq!(meter.tokens().map(|tokens| tokens.output), Some(9));
        }
    }

    #[test]
    fn usage_beside_content_is_read_and_shown() {
        let event = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
        let mut meter = StreamMeter::new(Dialect::OpenAi, true);
        assert_eq!(through(&mut meter, event, event.len()), event);
        assert_eq!(meter.tokens().map(|tokens| tokens.output), Some(2));
        assert!(meter.complete() && !meter.done());
    }

    #[test]
    fn an_event_of_several_lines_is_hidden_once() {
        let member = USAGE.trim_end().replace("}}", "},\"timings\":{\"x\":1}}") + "\n";
        let check = |stream: &str, expected: &str| {
            let mut meter = StreamMeter::new(Dialect::OpenAi, true);
            assert_eq!(through(&mut meter, stream, stream.len()), expected, "{stream}");
        };
        check(&format!("{CONTENT}{member}{USAGE}{DONE}"), &format!("{CONTENT}{DONE}"));
        check(&format!("{CONTENT}{member}{}", USAGE.trim_end()), CONTENT);
    }

    proptest! {
        #[test]
        fn no_stream_is_too_odd_to_be_read(lines in vec(0..LINES.len(), 0..12), size in 1_usize..200, hide in any::<bool>()) {
            let stream: String = lines.iter().map(|line| LINES[*line]).collect();
            let mut meter = StreamMeter::new(Dialect::OpenAi, hide);
            let passed = through(&mut meter, &stream, size);
            prop_assert!(passed.len() <= stream.len() && (hide || passed == stream));
        }
    }

    #[test]
    fn without_usage_content_chunks_are_counted_as_an_estimate() {
        let mut meter = StreamMeter::new(Dialect::OpenAi, true);
        through(&mut meter, &[CONTENT, CONTENT, FINISH, DONE].concat(), 1000);
        assert_eq!(meter.tokens(), Some(TokenCount { input: None, output: 2, estimated: true }));
        let mut meter = StreamMeter::new(Dialect::OpenAi, true);
        through(&mut meter, DONE, 1000);
        assert_eq!(meter.tokens(), None);
    }

    #[test]
    fn the_stream_of_responses_reports_usage_in_its_last_event() {
        let stream = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n\
                      event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"usage\":{\"input_tokens\":4,\"output_tokens\":6}}}\n\n";
        let mut meter = StreamMeter::new(Dialect::OpenAi, false);
        assert_eq!(through(&mut meter, stream, 7), stream);
        assert_eq!(meter.tokens(), Some(TokenCount { input: Some(4), output: 6, estimated: false }));
        assert!(meter.complete());
    }

    #[test]
    fn an_event_too_long_to_hold_passes() {
        let long =
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(3 * EVENT_MAX));
        let stream = [&long, CONTENT, USAGE, DONE].concat();
        let mut meter = StreamMeter::new(Dialect::OpenAi, true);
        assert_eq!(through(&mut meter, &stream, 1000), stream.replace(USAGE, ""));
        assert!(meter.done());
    }
}
