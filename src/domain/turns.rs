//! The order in which endpoints get a job, for example a probe: one job per endpoint at a time, and a limited number in
//! total.

use std::collections::{BTreeMap, HashMap};

use super::ids::EndpointId;

/// The jobs that run and those that wait for their turn.
///
/// Every endpoint is at most once among those that wait, and no more than `max` jobs run, so that nothing here grows
/// beyond the number of endpoints and `max`.
#[derive(Debug)]
pub struct Turns {
    /// How many jobs run at the same time at most.
    max: usize,
    /// How many jobs run, those of forgotten endpoints included.
    running: usize,
    /// The running job of each endpoint that was not forgotten since its job began.
    current: HashMap<EndpointId, Current>,
    /// The endpoints that wait, the next one first.
    waiting: BTreeMap<Place, EndpointId>,
    places: HashMap<EndpointId, Place>,
    /// Counts jobs and places, so that each has its own number.
    next_number: u64,
}

/// The permission to run one job, which must be handed in when the job has ended.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// The endpoint that the job is for.
    pub endpoint: EndpointId,
    number: u64,
}

/// The running job of an endpoint.
#[derive(Debug)]
struct Current {
    number: u64,
    /// Another job is wanted after this one.
    again: bool,
}

/// An endpoint's place among those that wait. A smaller place is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    urgency: Urgency,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Wanted,
    Due,
}

impl Turns {
    /// Creates turns in which at most `max` jobs run at the same time.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            running: 0,
            current: HashMap::new(),
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            next_number: 0,
        }
    }

    /// Asks for a job that begins after this call. A job that already runs does not satisfy the call. The job comes
    /// before all jobs that only [`due`](Self::due) asked for.
    pub fn want(&mut self, id: EndpointId) {
        if let Some(current) = self.current.get_mut(&id) {
            current.again = true;
        } else if self.places.get(&id).is_none_or(|place| place.urgency > Urgency::Wanted) {
            self.wait(id, Urgency::Wanted);
        }
    }

    /// Asks for a job because its time has come. A job that already runs or waits satisfies the call.
    pub fn due(&mut self, id: EndpointId) {
        if !self.current.contains_key(&id) && !self.places.contains_key(&id) {
            self.wait(id, Urgency::Due);
        }
    }

    /// Begins the next job; `None` if no job waits or `max` jobs run.
    pub fn begin(&mut self) -> Option<Turn> {
        if self.running >= self.max {
            return None;
        }
        let (_, endpoint) = self.waiting.pop_first()?;
        self.places.remove(&endpoint);
        let number = self.number();
        self.running += 1;
        self.current.insert(endpoint, Current { number, again: false });
        Some(Turn { endpoint, number })
    }

    /// Learns that a job has ended. Returns false if its endpoint was forgotten since the job began.
    pub fn ended(&mut self, turn: Turn) -> bool {
        self.running -= 1;
        let Some(current) = self.current.remove(&turn.endpoint) else { return false };
        if current.number != turn.number {
            self.current.insert(turn.endpoint, current);
            return false;
        }
        if current.again {
            self.want(turn.endpoint);
        }
        true
    }

    /// Forgets an endpoint. Its job no longer waits. A running job counts until it ends, but no longer keeps another
    /// job of the endpoint from beginning.
    pub fn forget(&mut self, id: EndpointId) {
        self.current.remove(&id);
        self.leave(id);
    }

    /// Puts an endpoint behind all others of the same urgency.
    fn wait(&mut self, id: EndpointId, urgency: Urgency) {
        self.leave(id);
        let place = Place { urgency, number: self.number() };
        self.waiting.insert(place, id);
        self.places.insert(id, place);
    }

    fn leave(&mut self, id: EndpointId) {
        if let Some(place) = self.places.remove(&id) {
            self.waiting.remove(&place);
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> EndpointId {
        EndpointId(Uuid::from_u128(number))
    }

    /// Checks which jobs begin now, and returns them.
    fn check(turns: &mut Turns, expected: &[u128]) -> Vec<Turn> {
        let begun: Vec<Turn> = std::iter::from_fn(|| turns.begin()).collect();
        let ids: Vec<u128> = begun.iter().map(|turn| turn.endpoint.0.as_u128()).collect();
        assert_eq!(ids, expected);
        begun
    }

    /// Ends jobs whose endpoints were not forgotten.
    fn end(turns: &mut Turns, ended: impl IntoIterator<Item = Turn>) {
        ended.into_iter().for_each(|turn| assert!(turns.ended(turn)));
    }

    #[test]
    fn what_is_wanted_while_a_job_runs_begins_after_it_and_what_is_due_does_not() {
        let mut turns = Turns::new(9);
        turns.due(id(1));
        let begun = check(&mut turns, &[1]);
        turns.due(id(1));
        end(&mut turns, begun);
        check(&mut turns, &[]);
        turns.want(id(1));
        let begun = check(&mut turns, &[1]);
        turns.want(id(1));
        turns.want(id(1));
        check(&mut turns, &[]);
        end(&mut turns, begun);
        let begun = check(&mut turns, &[1]);
        end(&mut turns, begun);
        check(&mut turns, &[]);
    }

    #[test]
    fn no_more_run_than_may_and_the_wanted_come_before_the_due() {
        let mut turns = Turns::new(2);
        (1..=4).for_each(|number| turns.due(id(number)));
        turns.due(id(4));
        turns.want(id(5));
        let mut begun = check(&mut turns, &[5, 1]);
        end(&mut turns, begun.drain(..1));
        begun.extend(check(&mut turns, &[2]));
        end(&mut turns, begun);
        check(&mut turns, &[3, 4]);
    }

    #[test]
    fn what_is_due_moves_to_the_front_once_it_is_wanted_and_the_wanted_keep_their_order() {
        let mut turns = Turns::new(9);
        (1..=4).for_each(|number| turns.due(id(number)));
        turns.want(id(3));
        turns.want(id(2));
        turns.want(id(3));
        turns.due(id(2));
        check(&mut turns, &[3, 2, 1, 4]);
    }

    #[test]
    fn a_forgotten_endpoint_no_longer_waits_and_its_running_job_counts_until_it_ends() {
        let mut turns = Turns::new(2);
        (1..=3).for_each(|number| turns.due(id(number)));
        let mut begun = check(&mut turns, &[1, 2]);
        turns.forget(id(1));
        turns.forget(id(3));
        turns.want(id(1));
        check(&mut turns, &[]);
        assert!(!turns.ended(begun.remove(0)));
        check(&mut turns, &[1]);
    }

    #[test]
    fn the_end_of_a_forgotten_job_says_nothing_about_the_job_after_it() {
        let mut turns = Turns::new(2);
        turns.want(id(1));
        let old = check(&mut turns, &[1]).remove(0);
        turns.forget(id(1));
        turns.want(id(1));
        let new = check(&mut turns, &[1]).remove(0);
        turns.want(id(1));
        assert!(!turns.ended(old));
        check(&mut turns, &[]);
        assert!(turns.ended(new));
        check(&mut turns, &[1]);
    }
}
