//! Which endpoints can serve a request, now or later.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Endpoint, Fleet};
use crate::domain::dispatch::decision::GrantReason;
use crate::domain::dispatch::index::Availability;
use crate::domain::dispatch::model_set::ModelSet;
use crate::domain::dispatch::models::ModelNumber;
use crate::domain::dispatch::unserved::Asked;
use crate::domain::ids::EndpointId;
use crate::domain::request::LeaseRequest;
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// What a request that finds no free slot can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// An online endpoint serves the model, or an endpoint that was not probed yet may serve it.
    Possible,
    /// No endpoint serves the model, but a loading endpoint will or may serve it.
    Loading,
    /// Endpoints have the model, but none of them is online.
    NothingOnline,
    /// No endpoint has the model.
    Unknown,
}

/// A free slot.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The endpoint that has the slot.
    pub endpoint: EndpointId,
    /// The models that the slot can serve.
    pub models: Cow<'a, ModelSet>,
    /// The APIs of these models that the endpoint does not serve.
    pub unserved: &'a [Asked],
}

impl Fleet {
    /// Chooses an endpoint for a request for `model` among those with a free slot that have not failed the request, and
    /// gives the reason. `None` if there is no such endpoint.
    pub fn choose(&self, model: ModelNumber, request: &LeaseRequest) -> Option<(EndpointId, GrantReason)> {
        let unserving = self.unserving(model, request);
        let excluded = |id: &EndpointId| request.tried.contains(id) || unserving.contains(id);
        self.policy.pick(&self.index.shortlist(model, &excluded))
    }

    /// Returns the endpoints that do not serve the request's API for this model.
    fn unserving(&self, model: ModelNumber, request: &LeaseRequest) -> &[EndpointId] {
        if self.unserved.is_empty() { &[] } else { self.unserved.endpoints((model, request.api_kind)) }
    }

    /// Learns that an endpoint does not serve the API of a request that went to `target`. Returns false if that is
    /// known, or says nothing about the endpoint as it is now.
    pub fn learn_unserved(
        &mut self,
        now: Moment,
        target: &Arc<Target>,
        model: ModelNumber,
        request: &LeaseRequest,
    ) -> bool {
        let has_model = |endpoint: &Endpoint| endpoint.models.binary_search(&model).is_ok();
        let is_its = |endpoint: &Endpoint| endpoint.is_at(target) && has_model(endpoint);
        self.endpoints.get(&target.id).is_some_and(is_its)
            && self.unserved.learn(now, target.id, (model, request.api_kind))
    }

    /// Tells whether endpoints have the model, but none of them serves the request's API, and no endpoint that is
    /// loading or not probed yet may serve it.
    pub fn is_unserved(&self, model: ModelNumber, request: &LeaseRequest) -> bool {
        let unserving = self.unserving(model, request);
        if unserving.is_empty() {
            return false;
        }
        let online =
            unserving.iter().filter(|id| self.endpoints.get(id).is_some_and(|endpoint| endpoint.key.is_some()));
        let (members, _) = self.index.members(model);
        let may_serve = |id: &EndpointId| self.may_serve(*id, model);
        members > 0 && online.count() == members && !self.pending.iter().chain(&self.loading).any(may_serve)
    }

    /// Tells whether an endpoint that is loading or not probed yet may serve a model.
    fn may_serve(&self, id: EndpointId, model: ModelNumber) -> bool {
        let models = &self.endpoints[&id].models;
        models.is_empty() || models.binary_search(&model).is_ok()
    }

    /// Tells whether nothing is remembered of APIs that endpoints do not serve.
    pub fn serves_all_apis(&self) -> bool {
        self.unserved.is_empty()
    }

    /// Returns a free slot of an endpoint; `None` if it is not online or has no free slot. A skipped endpoint serves
    /// only models of which no endpoint has a closed breaker.
    pub fn free_slot(&self, id: EndpointId) -> Option<Slot<'_>> {
        let endpoint = self.endpoints.get(&id)?;
        let models = match self.index.position(endpoint.key?).availability {
            Availability::Full => return None,
            Availability::Free => {
                Cow::Borrowed(endpoint.model_set.get_or_init(|| ModelSet::from_iter(endpoint.models.iter())))
            }
            Availability::Skipped => {
                let served = endpoint.models.iter().filter(|model| self.index.members(**model).1 == 0);
                Cow::Owned(ModelSet::from_iter(served))
            }
        };
        Some(Slot { endpoint: id, models, unserved: self.unserved.apis(id) })
    }

    /// Returns how many slots, free or not, could serve a model, and all models that compete for these slots, including
    /// the model itself.
    pub fn competition(&self, model: ModelNumber) -> (u64, Cow<'_, ModelSet>) {
        self.index.competition(model)
    }

    /// Tells whether an online endpoint could serve a request for `model`, serves the request's API and has not failed
    /// the request. The endpoint need not have a free slot. An endpoint whose breaker is not closed counts only if the
    /// model has no other.
    pub fn has_untried(&self, model: ModelNumber, request: &LeaseRequest) -> bool {
        let (members, closed) = self.index.members(model);
        let serving = if closed == 0 { members } else { closed };
        let is_among = |id: &&EndpointId| {
            self.endpoints.get(id).is_some_and(|endpoint| {
                let counts = |key| closed == 0 || self.index.position(key).is_closed;
                endpoint.key.is_some_and(counts) && endpoint.models.binary_search(&model).is_ok()
            })
        };
        let untried = |id: &&EndpointId| !request.tried.contains(id);
        let excluded = request.tried.iter().chain(self.unserving(model, request).iter().filter(untried));
        serving > excluded.filter(is_among).count()
    }

    /// Tells what a request for `model` can wait for if no slot is free.
    pub fn prospect(&self, model: ModelNumber) -> Prospect {
        let may_serve = |id: &EndpointId| self.may_serve(*id, model);
        if self.index.serves(model) || self.pending.iter().any(may_serve) {
            Prospect::Possible
        } else if self.loading.iter().any(may_serve) {
            Prospect::Loading
        } else if self.known.contains_key(&model) {
            Prospect::NothingOnline
        } else {
            Prospect::Unknown
        }
    }
}
