//! TpsTracker: how fast each endpoint answers with each model.

use std::collections::{BTreeMap, BTreeSet};

use actix::{Actor, Context, Handler, Message, MessageResult, Recipient};

use super::event_hub::Publish;
use super::facts::LeaseEnded;
use crate::domain::event::{Event, TpsUpdated};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::{ApiKind, EndedLease, Outcome};
use crate::domain::tps::{Aggregate, Measured, Speed};

/// Speeds by endpoint, model and API.
pub type Speeds = BTreeMap<(EndpointId, ModelId, ApiKind), Speed>;

/// Owns the speeds, per endpoint, model and API.
pub struct TpsTracker {
    alpha: f64,
    events: Recipient<Publish>,
    speeds: Speeds,
}

impl TpsTracker {
    /// Creates a tracker that goes on from `speeds`, and whose means give `alpha` (above 0, up to 1) as weight to the
    /// newest value.
    pub fn new(alpha: f64, speeds: Speeds, events: Recipient<Publish>) -> Self {
        Self { alpha, events, speeds }
    }
}

impl Actor for TpsTracker {
    type Context = Context<Self>;
}

impl Handler<LeaseEnded> for TpsTracker {
    type Result = ();

    fn handle(&mut self, LeaseEnded(ended): LeaseEnded, _: &mut Context<Self>) {
        let Outcome::Succeeded { tokens: Some(tokens) } = ended.outcome else { return };
        let (model, api_kind) = (ended.request.model.clone(), ended.request.api_kind);
        let key = (ended.endpoint, model.clone(), api_kind);
        let mut speed = self.speeds.get(&key).copied().unwrap_or_default();
        let EndedLease { duration, first_token, .. } = *ended;
        let measured = Measured { output_tokens: tokens.output, duration, first_token };
        let Some(tps) = speed.record(self.alpha, measured) else { return };
        self.speeds.insert(key, speed);
        self.events.do_send(Publish(Event::TpsUpdated(TpsUpdated {
            endpoint_id: ended.endpoint,
            model_id: model,
            tps,
            output_tokens: tokens.output,
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
        })));
    }
}

/// Asks for the speeds of one endpoint, by model and API.
#[derive(Message)]
#[rtype(result = "Vec<(ModelId, ApiKind, Speed)>")]
pub struct ReadSpeeds(pub EndpointId);

impl Handler<ReadSpeeds> for TpsTracker {
    type Result = Vec<(ModelId, ApiKind, Speed)>;

    fn handle(&mut self, ReadSpeeds(endpoint): ReadSpeeds, _: &mut Context<Self>) -> Self::Result {
        let of_endpoint = self.speeds.iter().filter(|((id, ..), _)| *id == endpoint);
        of_endpoint.map(|((_, model, api_kind), speed)| (model.clone(), *api_kind, *speed)).collect()
    }
}

/// What is known of an endpoint's speed.
#[derive(Clone, Debug, Default)]
pub struct EndpointSpeed {
    /// Models that were measured.
    pub models: BTreeSet<ModelId>,
    pub aggregate: Aggregate,
}

/// Asks for the speed of every endpoint that was measured.
#[derive(Message)]
#[rtype(result = "BTreeMap<EndpointId, EndpointSpeed>")]
pub struct ReadEndpointSpeeds;

impl Handler<ReadEndpointSpeeds> for TpsTracker {
    type Result = MessageResult<ReadEndpointSpeeds>;

    fn handle(&mut self, _: ReadEndpointSpeeds, _: &mut Context<Self>) -> Self::Result {
        let mut endpoints: BTreeMap<EndpointId, EndpointSpeed> = BTreeMap::new();
        for ((endpoint, model, _), speed) in &self.speeds {
            let known = endpoints.entry(*endpoint).or_default();
            known.models.insert(model.clone());
            known.aggregate.add(speed);
        }
        MessageResult(endpoints)
    }
}
