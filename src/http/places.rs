//! How many clients may be connected at one time, so that endpoints, probes and the database always get a descriptor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clock;
use crate::domain::time::Moment;

/// Descriptors that neither clients nor their requests may take. They are for the database, listeners, logs, and probes.
const RESERVED: usize = 256;

/// The most connections, however high the limit of descriptors is, because each connection takes memory, too.
const PLACES_MAX: usize = 100_000;

/// The fewest descriptors that suffice for a busy fleet; Leaseway warns the operator of fewer.
const FILES_WANTED: usize = 4096;

/// The shortest time between two warnings that all places are taken, in seconds.
const WARN_INTERVAL_SECS: u64 = 60;

/// Raises the limit of open files to the highest that this process may set, and returns the new limit.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::debug!("limit of open files not raised error=\"{error}\"");
        }
    }
    let files = getrlimit(Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    if files < FILES_WANTED {
        log::warn!("few files may be open open_files={files} clients={}", places_of(files));
    }
    files
}

/// Returns how many clients may be connected. Each client counts twice, since its request may need a second descriptor for
/// its endpoint. If descriptors are few, a quarter of them is reserved instead of [`RESERVED`].
fn places_of(files: usize) -> usize {
    let reserved = RESERVED.min(files / 4);
    ((files - reserved) / 2).clamp(1, PLACES_MAX)
}

/// Counts the connections of clients.
///
/// actix accepts no more connections than there are places; further ones wait in the kernel's backlog.
#[derive(Debug)]
pub struct Places {
    /// How many places there are, at least 1.
    max: usize,
    taken: AtomicUsize,
    started: Moment,
    /// When Leaseway last warned that all places are taken, in seconds after `started`, plus 1; 0 if it never has.
    said: AtomicU64,
}

impl Places {
    /// Divides the places that a limit of open files allows equally among `workers` threads.
    pub fn new(files: usize, workers: usize) -> Arc<Self> {
        let max = (places_of(files) / workers).max(1) * workers;
        Arc::new(Self { max, taken: AtomicUsize::new(0), started: clock::now(), said: AtomicU64::new(0) })
    }

    /// Returns how many places there are, taken or not.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes a place for a connection that has been accepted.
    pub fn take(self: &Arc<Self>) -> Place {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        if taken >= self.max && self.may_say(clock::now().since(self.started).as_secs()) {
            log::warn!("all places for clients are taken, further clients wait clients={taken}");
        }
        Place(self.clone())
    }

    /// Returns true, at most once in [`WARN_INTERVAL_SECS`], if it is time to warn that all places are taken.
    fn may_say(&self, secs: u64) -> bool {
        let is_due = |said: u64| (said == 0 || secs + 1 >= said + WARN_INTERVAL_SECS).then_some(secs + 1);
        self.said.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due).is_ok()
    }
}

/// The place of one connection; dropping it frees the place.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_leaves_a_descriptor_for_its_endpoint_and_some_are_reserved() {
        let check = |files: usize, expected: usize| assert_eq!(places_of(files), expected, "{files}");
        check(0, 1);
        check(64, 24);
        check(1024, 384);
        check(4096, 1920);
        check(usize::MAX, PLACES_MAX);
        assert_eq!(Places::new(1024, 3).max(), 384);
        assert_eq!(Places::new(64, 100).max(), 100);
    }

    #[test]
    fn full_places_are_said_once_a_minute() {
        let places = Places::new(0, 1);
        let said: Vec<u64> = (0..200).filter(|secs| places.may_say(*secs)).collect();
        assert_eq!(said, [0, 60, 120, 180]);
        let first = places.take();
        drop((places.take(), first));
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
