//! Passes a viewer's bytes on frame by frame, and refuses a frame that declares a long payload.
//!
//! actix's decoder believes the length that a frame declares. It keeps all bytes until the whole frame has come, so that one
//! connection could fill the memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;

/// The longest payload of a frame, in bytes. Viewers send only control frames, whose payload has at most 125 bytes.
const PAYLOAD_MAX: u64 = 1024;

/// Yields the bytes of a WebSocket connection, one whole frame at a time.
///
/// It holds the bytes of one read, and at most the head and [`PAYLOAD_MAX`] bytes of a frame that is not yet complete.
pub struct ShortFrames<S> {
    stream: S,
    read: BytesMut,
    /// A frame has been passed on, and the decoder must decode it before it gets the next one. Without this pause the decoder
    /// would first gather all frames that there are.
    is_decoding: bool,
}

impl<S> ShortFrames<S> {
    /// Wraps the bytes that come after the handshake.
    pub fn new(stream: S) -> Self {
        Self { stream, read: BytesMut::new(), is_decoding: false }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for ShortFrames<S> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_decoding) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match frame_length(&this.read) {
                Length::TooLong => return Poll::Ready(Some(Err(PayloadError::Overflow))),
                Length::Known(length) if this.read.len() >= length => {
                    this.is_decoding = true;
                    return Poll::Ready(Some(Ok(this.read.split_to(length).freeze())));
                }
                Length::Known(_) | Length::NotYet => {}
            }
            match ready!(Pin::new(&mut this.stream).poll_next(cx)) {
                Some(Ok(bytes)) => this.read.extend_from_slice(&bytes),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// What is known of a frame's length from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// Too few bytes have come to know the length.
    NotYet,
    /// The length of the whole frame, head included, in bytes.
    Known(usize),
    /// The payload is longer than [`PAYLOAD_MAX`].
    TooLong,
}

/// Reads the length of a frame (RFC 6455 section 5.2).
fn frame_length(frame: &[u8]) -> Length {
    let Some(second) = frame.get(1) else { return Length::NotYet };
    let mask_length = if second & 0x80 != 0 { 4 } else { 0 };
    let (payload, head_length) = match second & 0x7f {
        126 => match frame.get(2..4) {
            Some(bytes) => (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 4),
            None => return Length::NotYet,
        },
        127 => match frame.get(2..10) {
            Some(bytes) => (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 10),
            None => return Length::NotYet,
        },
        short => (u64::from(short), 2),
    };
    match usize::try_from(payload) {
        Ok(length) if payload <= PAYLOAD_MAX => Length::Known(head_length + mask_length + length),
        Ok(_) | Err(_) => Length::TooLong,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    #[test]
    fn the_declared_length_of_a_frame_is_read() {
        let check = |frame: &[u8], expected: Length| assert_eq!(frame_length(frame), expected, "{frame:?}");
        check(&[], Length::NotYet);
        check(&[0x89], Length::NotYet);
        check(&[0x89, 0x80], Length::Known(6));
        check(&[0x89, 0xfd], Length::Known(131));
        check(&[0x89, 0x7d], Length::Known(127));
        check(&[0x82, 0xfe, 4], Length::NotYet);
        check(&[0x82, 0xfe, 4, 0], Length::Known(1032));
        check(&[0x82, 0xfe, 4, 1], Length::TooLong);
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0], Length::NotYet);
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1], Length::Known(15));
        check(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0], Length::TooLong);
        check(&[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Length::TooLong);
    }

    #[actix_web::test]
    async fn frames_pass_one_at_a_time_however_they_come() {
        let pings = [0x89, 0x80, 1, 2, 3, 4].repeat(3);
        for size in [1, 5, 6, 7, 18] {
            let pieces = pings.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
            let mut frames = ShortFrames::new(stream::iter(pieces.collect::<Vec<_>>()));
            for _ in 0..3 {
                let frame = frames.next().await.expect("a frame").expect("bytes");
                assert_eq!(frame, pings[..6]);
                assert!(frames.next().now_or_never().is_none(), "the next one waits until this one is decoded");
            }
            assert!(frames.next().await.is_none());
        }
    }
}
