//! The limits of keys: which limits keys have, which day it is, and what keys have used on it.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};

use super::LoadManager;
use crate::actors::facts::{KeysChanged, TokensUsed};
use crate::clock;
use crate::domain::ids::KeyId;

/// The longest time between two looks at the calendar. The clock can be set, so that midnight comes sooner or later.
const CALENDAR_INTERVAL: Duration = Duration::from_secs(60);

impl LoadManager {
    /// Makes LoadManager notice every local midnight.
    pub(super) fn follow_days(&mut self, ctx: &mut Context<Self>) {
        let left = self.begin_day(Vec::new());
        ctx.run_later(left.min(CALENDAR_INTERVAL), Self::follow_days);
    }

    /// Tells the dispatcher which day it is, and returns the time until the day ends.
    fn begin_day(&mut self, used: Vec<(KeyId, u64)>) -> Duration {
        let (date, left) = clock::today();
        self.dispatcher.begin_day(date, clock::now().after(left), used);
        left
    }
}

impl Handler<KeysChanged> for LoadManager {
    type Result = ();

    fn handle(&mut self, KeysChanged { updated, removed }: KeysChanged, ctx: &mut Context<Self>) {
        let mut decisions = Vec::new();
        self.dispatcher.change_keys(clock::now(), updated, removed, &mut decisions);
        self.carry_out(decisions, ctx);
    }
}

impl Handler<TokensUsed> for LoadManager {
    type Result = ();

    fn handle(&mut self, TokensUsed { date, used }: TokensUsed, _: &mut Context<Self>) {
        if date == clock::today().0 {
            self.begin_day(used);
        }
    }
}
