//! Taking an endpoint out of service and back.

use actix::{Context, Handler, Message};

use super::{Registry, RegistryError};
use crate::domain::endpoint::EndpointView;
use crate::domain::ids::EndpointId;

/// Has an endpoint get no more leases, or leases again; its running requests go on. The config file's endpoints, too: this
/// changes no definition, and is forgotten at the end of the process.
#[derive(Message)]
#[rtype(result = "Result<EndpointView, RegistryError>")]
pub struct SetDraining {
    pub endpoint: EndpointId,
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
