//! The memory that all request bodies together may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Counts the bytes that are left for request bodies; all threads share it.
#[derive(Debug)]
pub struct Room {
    free: AtomicUsize,
}

impl Room {
    /// Creates room for `bytes` bytes of bodies.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(bytes) })
    }

    /// Takes room for `bytes` bytes; `None` if less is left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let mut taken = Taken { room: self.clone(), bytes: 0 };
        taken.grow(bytes).then_some(taken)
    }
}

/// Room that a body has taken; dropping it frees the room.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

impl Taken {
    /// Takes room for `bytes` bytes more. Returns false, and takes nothing, if less is left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let take = |free: usize| free.checked_sub(bytes);
        let is_taken = self.room.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }

    /// Returns how many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ties the room to the bytes that fill it: the room is freed when the last slice of the bytes is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _taken: self })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that keep their room until they are dropped.
struct Held {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_given_back_with_the_last_slice() {
        let room = Room::new(10);
        let mut first = room.take(6).expect("there is room");
        assert!(room.take(5).is_none());
        assert!(!first.grow(5) && first.grow(4));
        assert!(room.take(1).is_none() && room.take(0).is_some());
        let bytes = first.hold(Bytes::from_static(b"0123456789"));
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(room.take(1).is_none(), "a slice still holds the memory");
        assert_eq!(slice, "23");
        drop(slice);
        assert_eq!(room.take(10).map(|taken| taken.bytes()), Some(10));
        assert!(room.take(11).is_none());
    }
}
