//! Stopping: no further request is served, and running requests may finish.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::LoadManager;
use crate::actors::promise::{Caller, Promise};
use crate::clock;

/// Refuses all waiting and new requests. The answer, the number of leases that had to be ended, comes once no lease is held, or
/// after `grace`, when the remaining leases are ended.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Drain {
    /// How long running requests may take to finish.
    pub grace: Duration,
}

impl Handler<Drain> for LoadManager {
    type Result = Promise<usize>;

    fn handle(&mut self, Drain { grace }: Drain, ctx: &mut Context<Self>) -> Promise<usize> {
        let mut decisions = Vec::new();
        self.dispatcher.drain(clock::now(), &mut decisions);
        self.carry_out(decisions, ctx);
        if self.dispatcher.active() == 0 {
            return Promise::Now(0);
        }
        let (caller, answer) = Caller::keep();
        self.draining = Some(caller);
        ctx.notify_later(GraceOver, grace);
        answer
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct GraceOver;

impl Handler<GraceOver> for LoadManager {
    type Result = ();

    fn handle(&mut self, _: GraceOver, ctx: &mut Context<Self>) {
        let Some(caller) = self.draining.take() else { return };
        let ended = self.dispatcher.end_all(clock::now());
        let cut = ended.len();
        log::warn!("shutdown grace is over requests_cut={cut}");
        ended.into_iter().for_each(|ended| self.note_ended(ended, ctx));
        self.tell_observers();
        caller.answer(cut);
    }
}
