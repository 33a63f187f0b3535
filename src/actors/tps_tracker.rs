//! TpsTracker: how fast each endpoint answers with each model.

use std::collections::BTreeMap;

use actix::{Actor, Context, Handler, Message, Recipient};

use super::event_hub::Publish;
use super::facts::RequestFinished;
use crate::domain::event::{Event, TpsUpdated};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::{ApiKind, Outcome};
use crate::domain::tps::Speed;

/// Owns the speeds, per endpoint, model and API.
pub struct TpsTracker {
    alpha: f64,
    events: Recipient<Publish>,
    speeds: BTreeMap<(EndpointId, ModelId, ApiKind), Speed>,
}

impl TpsTracker {
    /// Creates a tracker whose means give `alpha` (above 0, up to 1) as weight to the newest value.
    pub fn new(alpha: f64, events: Recipient<Publish>) -> Self {
        Self { alpha, events, speeds: BTreeMap::new() }
    }
}

impl Actor for TpsTracker {
    type Context = Context<Self>;
}

impl Handler<RequestFinished> for TpsTracker {
    type Result = ();

    fn handle(&mut self, RequestFinished(finished): RequestFinished, _: &mut Context<Self>) {
        let Outcome::Succeeded { tokens: Some(tokens) } = finished.outcome else { return };
        let key = (finished.endpoint, finished.model.clone(), finished.api_kind);
        let mut speed = self.speeds.get(&key).copied().unwrap_or_default();
        let Some(tps) = speed.record(self.alpha, tokens.output, finished.duration) else { return };
        self.speeds.insert(key, speed);
        self.events.do_send(Publish(Event::TpsUpdated(TpsUpdated {
            endpoint_id: finished.endpoint,
            model_id: finished.model.clone(),
            tps,
            output_tokens: tokens.output,
            duration_ms: u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX),
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
