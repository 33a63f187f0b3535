//! The APIs that an endpoint has served for its models since its last model sync. An answer of 501 to one of these APIs is
//! about the request alone.

use super::unserved::REMEMBERED_FOR;
use crate::domain::request::ApiKind;
use crate::domain::time::Moment;

/// The APIs that one endpoint has served.
#[derive(Debug, Default)]
pub struct ServedApis {
    /// A set of APIs for each of the endpoint's models, one bit for each API; empty until a request is served. The number
    /// of sets is that of the models.
    apis: Vec<u8>,
    /// When the first of these APIs was served.
    since: Moment,
}

impl ServedApis {
    /// Learns that the endpoint has served an API of the model at this place among its `models`.
    pub fn learn(&mut self, now: Moment, models: usize, place: usize, api_kind: ApiKind) {
        if self.apis.is_empty() {
            (self.apis, self.since) = (vec![0; models], now);
        }
        self.apis[place] |= bit(api_kind);
    }

    /// Tells whether the endpoint has served an API of the model at this place among its models.
    pub fn contains(&self, place: usize, api_kind: ApiKind) -> bool {
        self.apis.get(place).is_some_and(|apis| apis & bit(api_kind) != 0)
    }

    /// Forgets everything if the first API was served at least [`REMEMBERED_FOR`] ago.
    pub fn forget_old(&mut self, now: Moment) {
        if now.since(self.since) >= REMEMBERED_FOR {
            *self = Self::default();
        }
    }
}

fn bit(api_kind: ApiKind) -> u8 {
    1 << api_kind as u8
}
