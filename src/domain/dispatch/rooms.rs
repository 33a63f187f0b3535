//! Where requests wait: in the line, delayed before it, or for an endpoint that is still loading.

use std::collections::HashMap;

use super::fleet::{Prospect, Slot};
use super::models::ModelNumber;
use super::waiting::{Waiting, WaitingLine};
use crate::domain::ids::Ticket;
use crate::domain::time::Moment;

/// One of the three places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Line,
    /// For those who join the line later; served only where the line has nobody.
    Delay,
    /// For those whose model nobody serves yet, while an endpoint is loading that will.
    WarmUp,
}

impl Room {
    /// Tells whether those wait in the right place who wait here for a model with this prospect.
    fn suits(self, prospect: Prospect) -> bool {
        match self {
            Room::Line | Room::Delay => prospect == Prospect::Possible,
            Room::WarmUp => prospect == Prospect::Loading,
        }
    }
}

/// All who wait. A ticket is in one room at most.
#[derive(Debug, Default)]
pub struct Rooms {
    line: WaitingLine,
    delay: WaitingLine,
    warm_up: WaitingLine,
}

impl Rooms {
    /// Returns how many requests wait.
    pub fn len(&self) -> usize {
        self.all().iter().map(|(_, line)| line.len()).sum()
    }

    /// Tells whether nobody waits who could be served by a free slot.
    pub fn is_nobody_next(&self) -> bool {
        self.line.len() + self.delay.len() == 0
    }

    /// Returns how many of them are retries.
    pub fn retries(&self) -> usize {
        self.all().iter().map(|(_, line)| line.retries()).sum()
    }

    pub fn room(&self, room: Room) -> &WaitingLine {
        match room {
            Room::Line => &self.line,
            Room::Delay => &self.delay,
            Room::WarmUp => &self.warm_up,
        }
    }

    /// Adds a request to a room until `until`.
    pub fn join(&mut self, room: Room, waiting: Waiting, until: Moment) {
        let line = match room {
            Room::Line => &mut self.line,
            Room::Delay => &mut self.delay,
            Room::WarmUp => &mut self.warm_up,
        };
        line.join(waiting, until);
    }

    /// Takes out the request of this ticket, if it waits.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let Self { line, delay, warm_up } = self;
        [line, delay, warm_up].into_iter().find_map(|line| line.leave(ticket))
    }

    /// Finds the request of this ticket, if it waits.
    pub fn find(&self, ticket: Ticket) -> Option<(Room, &Waiting)> {
        self.all().into_iter().find_map(|(room, line)| Some((room, line.get(ticket)?)))
    }

    /// Takes out the request that is next for a slot.
    pub fn take_next(&mut self, slot: &Slot<'_>) -> Option<Waiting> {
        self.line.take_next(slot).or_else(|| self.delay.take_next(slot))
    }

    /// Returns a request whose time in its room is over.
    pub fn due(&self, now: Moment) -> Option<(Room, Ticket)> {
        self.all().into_iter().find_map(|(room, line)| Some((room, line.due(now)?)))
    }

    /// Returns when [`Rooms::due`] next has somebody.
    pub fn next_due(&self) -> Option<Moment> {
        self.all().into_iter().filter_map(|(_, line)| line.next_due()).min()
    }

    /// Returns the models somebody waits for in the wrong room, given the prospects of every model.
    pub fn misplaced(&self, prospect: impl Fn(ModelNumber) -> Prospect) -> Vec<(ModelNumber, Prospect)> {
        let models = self.all().into_iter().flat_map(|(room, line)| line.demand().map(move |(model, _)| (room, model)));
        let judged = models.map(|(room, model)| (room, model, prospect(model)));
        let wrong = judged.filter(|(room, _, prospect)| !room.suits(*prospect));
        wrong.map(|(_, model, prospect)| (model, prospect)).collect()
    }

    /// Returns how many requests wait for each model.
    pub fn demand(&self) -> HashMap<ModelNumber, usize> {
        let mut demand = HashMap::new();
        for (model, waiting) in self.all().into_iter().flat_map(|(_, line)| line.demand()) {
            *demand.entry(model).or_default() += waiting;
        }
        demand
    }

    /// Returns the waiting requests, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.all().into_iter().flat_map(|(_, line)| line.iter())
    }

    /// Checks that the indexes agree with the entries.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        self.all().into_iter().for_each(|(_, line)| line.assert_consistent());
    }

    fn all(&self) -> [(Room, &WaitingLine); 3] {
        [Room::Line, Room::Delay, Room::WarmUp].map(|room| (room, self.room(room)))
    }
}
