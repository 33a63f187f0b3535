//! The memory that all request bodies together may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// A body of up to this length is small, in bytes.
const SMALL_MAX: usize = 64 * 1024;

/// The part of the room that is reserved for small bodies: one in this many bytes. Small requests and the management API go
/// on when large bodies fill the rest.
const RESERVED_PART: usize = 16;

/// Counts the bytes that are left for request bodies; all threads share it.
#[derive(Debug)]
pub struct Room {
    free: AtomicUsize,
    /// The bytes that only small bodies may take.
    reserved: usize,
}

impl Room {
    /// Creates room for `bytes` bytes of bodies.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(bytes), reserved: bytes / RESERVED_PART })
    }

    /// Admits a body, which takes room as it comes. `announced` is its length if that is known, else 0. Returns `None` if
    /// less room is left now.
    pub fn admit(self: &Arc<Self>, announced: usize) -> Option<Taken> {
        let left = self.left(self.free.load(Ordering::Relaxed), announced, announced);
        left.map(|_| Taken { room: self.clone(), bytes: 0, announced })
    }

    /// Returns what is left of `free` bytes after a body of `length` bytes has taken `bytes` of them; `None` if that is not
    /// allowed.
    fn left(&self, free: usize, bytes: usize, length: usize) -> Option<usize> {
        let kept = if length > SMALL_MAX { self.reserved } else { 0 };
        free.checked_sub(bytes).filter(|left| *left >= kept)
    }
}

/// Room that a body has taken; dropping it frees the room.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    bytes: usize,
    /// The length that the body was announced with; 0 if it is not known.
    announced: usize,
}

impl Taken {
    /// Takes room for `bytes` bytes more. Returns false, and takes nothing, if less is left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let length = self.announced.max(self.bytes + bytes);
        let take = |free: usize| self.room.left(free, bytes, length);
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
        let mut first = room.admit(6).expect("there is room");
        assert!(room.admit(10).is_some(), "what is announced takes no room");
        assert!(first.grow(6) && room.admit(5).is_none());
        assert!(!first.grow(5) && first.grow(4));
        assert!(room.admit(1).is_none() && room.admit(0).is_some_and(|mut taken| !taken.grow(1)));
        let bytes = first.hold(Bytes::from_static(b"0123456789"));
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(room.admit(1).is_none(), "a slice still holds the memory");
        assert_eq!(slice, "23");
        drop(slice);
        assert!(room.admit(10).is_some_and(|mut taken| taken.grow(10) && taken.bytes() == 10));
        assert!(room.admit(10).is_some() && room.admit(11).is_none());
    }

    #[test]
    fn a_part_of_the_room_is_for_small_bodies_only() {
        let room = Room::new(16 * SMALL_MAX);
        assert!(room.admit(15 * SMALL_MAX + 1).is_none());
        let mut large = room.admit(15 * SMALL_MAX).expect("there is room");
        assert!(large.grow(15 * SMALL_MAX) && !large.grow(1));
        assert!(room.admit(SMALL_MAX + 1).is_none());
        let mut grows = room.admit(0).expect("its length is not known");
        assert!(!grows.grow(SMALL_MAX + 1) && grows.grow(SMALL_MAX) && !grows.grow(1));
        drop(large);
        assert!(grows.grow(14 * SMALL_MAX) && !grows.grow(1));
    }
}
