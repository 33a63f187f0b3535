//! The order in which endpoints get a job, for example a probe: one job per endpoint at a time, and a limited number in
//! total.

use std::collections::{HashMap, HashSet, VecDeque};

use super::ids::EndpointId;

/// The jobs that run and those that wait for their turn, in the order in which they were asked for.
///
/// Every endpoint is at most once among those that run and once among those that wait, so that nothing here grows
/// beyond the number of endpoints.
#[derive(Debug)]
pub struct Turns {
    /// How many jobs run at the same time at most.
    max: usize,
    /// The endpoints whose job runs, each with whether another job is wanted after it.
    running: HashMap<EndpointId, bool>,
    waiting: VecDeque<EndpointId>,
    is_waiting: HashSet<EndpointId>,
}

impl Turns {
    /// Creates turns in which at most `max` jobs run at the same time.
    pub fn new(max: usize) -> Self {
        Self { max, running: HashMap::new(), waiting: VecDeque::new(), is_waiting: HashSet::new() }
    }

    /// Asks for a job that begins after this call. A job that already runs does not satisfy the call. The new job comes
    /// before all jobs that [`due`](Self::due) asked for.
    pub fn want(&mut self, id: EndpointId) {
        if let Some(again) = self.running.get_mut(&id) {
            *again = true;
        } else if self.is_waiting.insert(id) {
            self.waiting.push_front(id);
        }
    }

    /// Asks for a job because its time has come. A job that already runs or waits satisfies the call.
    pub fn due(&mut self, id: EndpointId) {
        if !self.running.contains_key(&id) && self.is_waiting.insert(id) {
            self.waiting.push_back(id);
        }
    }

    /// Begins the next job and returns its endpoint; `None` if no job waits or `max` jobs run.
    pub fn begin(&mut self) -> Option<EndpointId> {
        if self.running.len() >= self.max {
            return None;
        }
        let id = self.waiting.pop_front()?;
        self.is_waiting.remove(&id);
        self.running.insert(id, false);
        Some(id)
    }

    /// Learns that the job of an endpoint has ended.
    pub fn ended(&mut self, id: EndpointId) {
        if self.running.remove(&id) == Some(true) {
            self.want(id);
        }
    }

    /// Forgets an endpoint. [`ended`](Self::ended) must not be called for its running job afterwards.
    pub fn forget(&mut self, id: EndpointId) {
        self.running.remove(&id);
        if self.is_waiting.remove(&id) {
            self.waiting.retain(|waiting| *waiting != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> EndpointId {
        EndpointId(Uuid::from_u128(number))
    }

    fn begin(turns: &mut Turns) -> Vec<u128> {
        std::iter::from_fn(|| turns.begin()).map(|id| id.0.as_u128()).collect()
    }

    #[test]
    fn what_is_wanted_while_a_job_runs_begins_after_it_and_what_is_due_does_not() {
        let mut turns = Turns::new(9);
        turns.due(id(1));
        assert_eq!(begin(&mut turns), [1]);
        turns.due(id(1));
        turns.ended(id(1));
        assert_eq!(begin(&mut turns), []);
        turns.want(id(1));
        assert_eq!(begin(&mut turns), [1]);
        turns.want(id(1));
        turns.want(id(1));
        assert_eq!(begin(&mut turns), [], "one at a time");
        turns.ended(id(1));
        assert_eq!(begin(&mut turns), [1], "twice wanted, once begun");
        turns.ended(id(1));
        assert_eq!(begin(&mut turns), []);
    }

    #[test]
    fn no_more_run_than_may_and_the_wanted_come_before_the_due() {
        let mut turns = Turns::new(2);
        (1..=4).for_each(|number| turns.due(id(number)));
        turns.due(id(4));
        turns.want(id(5));
        assert_eq!(begin(&mut turns), [5, 1]);
        turns.ended(id(5));
        assert_eq!(begin(&mut turns), [2]);
        turns.ended(id(1));
        turns.ended(id(2));
        assert_eq!(begin(&mut turns), [3, 4]);
    }

    #[test]
    fn a_forgotten_endpoint_neither_waits_nor_runs() {
        let mut turns = Turns::new(1);
        turns.due(id(1));
        turns.due(id(2));
        assert_eq!(begin(&mut turns), [1]);
        turns.forget(id(1));
        assert_eq!(begin(&mut turns), [2]);
        turns.due(id(1));
        turns.forget(id(1));
        turns.ended(id(2));
        assert_eq!(begin(&mut turns), []);
    }
}
