//! Saves the observations of probes: changes at once, latencies with the next round of probes.

use actix::{AsyncContext, Context, Handler, Message};

use super::Registry;
use super::entry::Entry;
use crate::actors::persistence::{ObservationsSaved, SaveObservations};
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::Observation;

impl Registry {
    /// Saves the observations that are not saved yet, unless others are being saved at the moment.
    pub(super) fn save_observed(&mut self, ctx: &mut Context<Self>) {
        if self.saving || self.unsaved.is_empty() {
            return;
        }
        self.saving = true;
        let observed = |id: EndpointId| Some((id, self.entries.get(&id).map(Entry::observation)?));
        let observed: Vec<(EndpointId, Observation)> =
            std::mem::take(&mut self.unsaved).into_iter().filter_map(observed).collect();
        self.neighbours.persistence.do_send(SaveObservations { observed, done: ctx.address().recipient() });
    }
}

impl Handler<ObservationsSaved> for Registry {
    type Result = ();

    fn handle(&mut self, ObservationsSaved { unsaved }: ObservationsSaved, _: &mut Context<Self>) {
        self.saving = false;
        self.unsaved.extend(unsaved);
    }
}

/// Makes Registry save all unsaved observations at once, even while others are being saved.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SaveObserved;

impl Handler<SaveObserved> for Registry {
    type Result = ();

    fn handle(&mut self, _: SaveObserved, ctx: &mut Context<Self>) {
        self.saving = false;
        self.save_observed(ctx);
    }
}
