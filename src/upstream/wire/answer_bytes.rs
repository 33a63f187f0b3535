//! Finds out by its bytes whether an answer was longer than it should be.

/// Counts the bytes of an answer, without parsing them as HTTP.
#[derive(Debug, Default)]
pub struct AnswerBytes {
    length: u64,
    /// The length of the head, its blank line included; `None` until the blank line has come.
    head_length: Option<u64>,
    /// The last four bytes.
    tail: [u8; 4],
}

impl AnswerBytes {
    /// Notes bytes that have come.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.head_length.is_none() {
            self.find_head_end(bytes);
        }
        self.length += bytes.len() as u64;
        let kept = bytes.len().min(4);
        self.tail.rotate_left(kept);
        self.tail[4 - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
    }

    /// Looks for the blank line, which may have begun in earlier bytes. `tail` holds these.
    fn find_head_end(&mut self, bytes: &[u8]) {
        let mut seen = [0; 7];
        seen[..4].copy_from_slice(&self.tail);
        let joined = bytes.len().min(3);
        seen[4..4 + joined].copy_from_slice(&bytes[..joined]);
        let across = memchr::memmem::find(&seen[1..4 + joined], END_OF_HEAD).map(|at| at + 1);
        let within = || memchr::memmem::find(bytes, END_OF_HEAD).map(|at| at + END_OF_HEAD.len());
        self.head_length = across.or_else(within).map(|end| self.length + end as u64);
    }

    /// Tells whether more bytes came than the answer has. `body_length` is the length of its body; `None` if the body ends with
    /// its last chunk.
    pub fn has_more_than(&self, body_length: Option<u64>) -> bool {
        match (self.head_length, body_length) {
            (Some(head), Some(body)) => self.length > head + body,
            (Some(_), None) => &self.tail != END_OF_HEAD,
            (None, _) => false,
        }
    }
}

/// The blank line after a head, and after the last chunk of a body.
const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_answer_is_seen_however_it_is_cut() {
        let check = |text: &str, body_length, expected: bool| {
            for size in 1..=text.len() {
                let mut answer = AnswerBytes::default();
                text.as_bytes().chunks(size).for_each(|piece| answer.add(piece));
                assert_eq!(answer.has_more_than(body_length), expected, "{text:?} in pieces of {size}");
            }
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        check(&format!("{head}right"), Some(5), false);
        check(&format!("{head}\r\n\r\n!"), Some(5), false);
        check(&format!("{head}right{head}stray"), Some(5), true);
        check(&format!("{head}rightH"), Some(5), true);
        check(head, Some(0), false);
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n";
        check(chunks, None, false);
        check(&chunks.replace("0\r\n\r\n", "0\r\nx-trailer: 1\r\n\r\n"), None, false);
        check(&format!("{chunks}{head}stray"), None, true);
    }
}
