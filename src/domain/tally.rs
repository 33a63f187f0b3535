//! Counts events that come in storms, so that each kind is reported at once and then at most once per interval.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::time::Moment;

/// Events of one kind that are to be reported now.
#[derive(Debug, PartialEq, Eq)]
pub struct Told<K, R> {
    /// The kind of the events.
    pub key: K,
    /// How many events of the kind came since its last report, at least 1.
    pub count: u64,
    /// The reason of the last of these events.
    pub reason: R,
}

/// The count of one kind.
#[derive(Debug)]
struct Tally<R> {
    /// When the kind was last reported.
    told: Moment,
    /// Events since then.
    untold: u64,
    /// The reason of the last event.
    reason: R,
}

/// Counts of events by kind. [`flush`](Self::flush) forgets kinds that had no events for an interval; between two calls
/// there are as many counts as kinds.
#[derive(Debug)]
pub struct Tallies<K, R> {
    interval: Duration,
    tallies: HashMap<K, Tally<R>>,
}

impl<K: Clone + Eq + Hash + Ord, R: Clone> Tallies<K, R> {
    /// Creates counts that report each kind at most once per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, tallies: HashMap::new() }
    }

    /// Counts an event. Returns the report of its kind; `None` if its last report is less than the interval ago.
    pub fn add(&mut self, now: Moment, key: K, reason: R) -> Option<Told<K, R>> {
        let Some(tally) = self.tallies.get_mut(&key) else {
            self.tallies.insert(key.clone(), Tally { told: now, untold: 0, reason: reason.clone() });
            return Some(Told { key, count: 1, reason });
        };
        tally.untold += 1;
        tally.reason = reason;
        tally.tell(now, self.interval, key)
    }

    /// Returns the reports that are due, in the order of the kinds, and forgets the kinds that had no events for an
    /// interval.
    pub fn flush(&mut self, now: Moment) -> Vec<Told<K, R>> {
        let interval = self.interval;
        self.tallies.retain(|_, tally| tally.untold > 0 || now.since(tally.told) < interval);
        let due = self.tallies.iter_mut().filter_map(|(key, tally)| tally.tell(now, interval, key.clone()));
        let mut due: Vec<Told<K, R>> = due.collect();
        due.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        due
    }
}

impl<R: Clone> Tally<R> {
    fn tell<K>(&mut self, now: Moment, interval: Duration, key: K) -> Option<Told<K, R>> {
        if self.untold == 0 || now.since(self.told) < interval {
            return None;
        }
        self.told = now;
        Some(Told { key, count: std::mem::take(&mut self.untold), reason: self.reason.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_told_of_at_once_and_then_once_per_interval() {
        let at = |seconds: u64| Moment::from_micros(seconds * 1_000_000);
        let mut tallies = Tallies::new(Duration::from_secs(10));
        let told = |key, count, reason| Some(Told { key, count, reason });
        assert_eq!(tallies.add(at(0), "a", 1), told("a", 1, 1));
        assert_eq!((tallies.add(at(1), "a", 2), tallies.add(at(9), "a", 3)), (None, None));
        assert_eq!(tallies.add(at(9), "b", 4), told("b", 1, 4), "each kind by itself");
        assert_eq!(tallies.add(at(10), "a", 5), told("a", 3, 5));
        assert_eq!(tallies.add(at(11), "a", 6), None);
        assert_eq!(tallies.add(at(12), "b", 7), None);
        assert!(tallies.flush(at(18)).is_empty());
        let due = vec![Told { key: "a", count: 1, reason: 6 }, Told { key: "b", count: 1, reason: 7 }];
        assert_eq!(tallies.flush(at(20)), due, "the last of a storm are told of, too");
        assert!(tallies.flush(at(29)).is_empty() && tallies.tallies.len() == 2);
        assert!(tallies.flush(at(30)).is_empty() && tallies.tallies.is_empty(), "quiet kinds are forgotten");
    }
}
