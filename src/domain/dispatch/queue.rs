//! The three stages in which requests wait: in the line, delayed before the line, or for an endpoint that is still
//! loading.

use std::collections::HashMap;

use super::fleet::{Prospect, Slot};
use super::limits::AccountNumber;
use super::line::{Line, WaitingRequest};
use super::models::ModelNumber;
use crate::domain::ids::Ticket;
use crate::domain::time::Moment;

/// What a waiting request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A free slot.
    Line,
    /// The end of its delay, after which the request joins the line. A free slot serves a delayed request only if the
    /// line has no request for the slot.
    Delay,
    /// An endpoint that is loading the model. No endpoint serves the model yet.
    WarmUp,
}

impl Stage {
    /// Tells whether requests whose model has this prospect belong to this stage.
    fn suits(self, prospect: Prospect) -> bool {
        match self {
            Stage::Line | Stage::Delay => prospect == Prospect::Possible,
            Stage::WarmUp => prospect == Prospect::Loading,
        }
    }
}

/// All waiting requests. A ticket is in one stage at most.
#[derive(Debug, Default)]
pub struct Queue {
    line: Line,
    delay: Line,
    warm_up: Line,
}

impl Queue {
    /// Returns how many requests wait.
    pub fn len(&self) -> usize {
        self.all().iter().map(|(_, line)| line.len()).sum()
    }

    /// Tells whether a request waits that a free slot could serve.
    pub fn wants_slots(&self) -> bool {
        self.line.len() + self.delay.len() > 0
    }

    /// Returns how many of the waiting requests are retries.
    pub fn retries(&self) -> usize {
        self.all().iter().map(|(_, line)| line.retries()).sum()
    }

    /// Returns the requests of a stage.
    pub fn stage(&self, stage: Stage) -> &Line {
        match stage {
            Stage::Line => &self.line,
            Stage::Delay => &self.delay,
            Stage::WarmUp => &self.warm_up,
        }
    }

    /// Adds a request to a stage until `until`. Its client stands aside if `is_aside`.
    pub fn join(&mut self, stage: Stage, waiting: WaitingRequest, until: Moment, is_aside: bool) {
        let line = match stage {
            Stage::Line => &mut self.line,
            Stage::Delay => &mut self.delay,
            Stage::WarmUp => &mut self.warm_up,
        };
        line.join(waiting, until, is_aside);
    }

    /// Takes out the request with this ticket; `None` if it does not wait.
    pub fn leave(&mut self, ticket: Ticket) -> Option<WaitingRequest> {
        let Self { line, delay, warm_up } = self;
        [line, delay, warm_up].into_iter().find_map(|line| line.leave(ticket))
    }

    /// Returns the request with this ticket and its stage; `None` if it does not wait.
    pub fn find(&self, ticket: Ticket) -> Option<(Stage, &WaitingRequest)> {
        self.all().into_iter().find_map(|(stage, line)| Some((stage, line.get(ticket)?)))
    }

    /// Takes out the request that is next for a slot; `None` if no request can use the slot.
    pub fn take_next(&mut self, slot: &Slot<'_>) -> Option<WaitingRequest> {
        self.line.take_next(slot).or_else(|| self.delay.take_next(slot))
    }

    /// Puts the clients of an account aside, or back into their turns.
    pub fn set_aside(&mut self, account: AccountNumber, is_aside: bool) {
        let Self { line, delay, warm_up } = self;
        [line, delay, warm_up].into_iter().for_each(|line| line.set_aside(account, is_aside));
    }

    /// Returns how many requests of an account wait.
    pub fn waiting_of(&self, account: AccountNumber) -> usize {
        self.all().iter().map(|(_, line)| line.waiting_of(account)).sum()
    }

    /// Returns the request of an account that is served next, with what `serve` returns for it; `None` if no request of the
    /// account can be served. `is_free` tells whether a slot is free for a model.
    pub fn first_of<R>(
        &self,
        account: AccountNumber,
        is_free: impl Fn(ModelNumber) -> bool,
        serve: impl Fn(&WaitingRequest) -> Option<R>,
    ) -> Option<(Ticket, R)> {
        let lines = [&self.line, &self.delay];
        lines.into_iter().find_map(|line| line.first_of(account, &is_free, &serve))
    }

    /// Returns a request whose time in its stage is over; `None` if there is none.
    pub fn due(&self, now: Moment) -> Option<(Stage, Ticket)> {
        self.all().into_iter().find_map(|(stage, line)| Some((stage, line.due(now)?)))
    }

    /// Returns when [`Queue::due`] next has a request; `None` if no request waits.
    pub fn next_due(&self) -> Option<Moment> {
        self.all().into_iter().filter_map(|(_, line)| line.next_due()).min()
    }

    /// Returns the models whose requests wait in the wrong stage, each with its prospect.
    pub fn misplaced(&self, prospect: impl Fn(ModelNumber) -> Prospect) -> Vec<(ModelNumber, Prospect)> {
        let models =
            self.all().into_iter().flat_map(|(stage, line)| line.demand().map(move |(model, _)| (stage, model)));
        let judged = models.map(|(stage, model)| (stage, model, prospect(model)));
        let wrong = judged.filter(|(stage, _, prospect)| !stage.suits(*prospect));
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
    pub fn iter(&self) -> impl Iterator<Item = &WaitingRequest> {
        self.all().into_iter().flat_map(|(_, line)| line.iter())
    }

    /// Checks that the indexes agree with the entries, and that the clients of accounts at their limit stand aside.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self, is_at_limit: impl Fn(AccountNumber) -> bool) {
        self.all().into_iter().for_each(|(_, line)| line.assert_consistent(&is_at_limit));
    }

    fn all(&self) -> [(Stage, &Line); 3] {
        [Stage::Line, Stage::Delay, Stage::WarmUp].map(|stage| (stage, self.stage(stage)))
    }
}
