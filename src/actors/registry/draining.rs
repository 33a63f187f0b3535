//! Takes endpoints out of service and puts them back.

use actix::{Context, Handler, Message};

use super::{Registry, RegistryError};
use crate::domain::endpoint::EndpointView;
use crate::domain::ids::EndpointId;

/// Takes an endpoint out of service, or puts it back; its running requests go on. Draining is not part of the definition:
/// it is allowed for endpoints of the config file, and it ends with the process.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct SetDraining {
    /// The endpoint to take out of service or to put back.
    pub endpoint: EndpointId,
    /// True to take the endpoint out of service, false to put it back.
    pub draining: bool,
}

impl Handler<SetDraining> for Registry {
    type Result = Result<EndpointView, RegistryError>;

    fn handle(&mut self, SetDraining { endpoint, draining }: SetDraining, _: &mut Context<Self>) -> Self::Result {
        let entry = self.entries.get_mut(&endpoint).ok_or(RegistryError::NotFound(endpoint))?;
        let before = entry.status();
        entry.is_draining = draining;
        let view = entry.view();
        self.tell_change(endpoint, before);
        Ok(view)
    }
}
