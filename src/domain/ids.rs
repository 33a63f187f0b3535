//! Identifiers, each a type of its own, so that two kinds cannot be mixed up.

use core::net::IpAddr;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identifies an endpoint for as long as it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(
    /// A random UUID, which is also the key in the database.
    pub Uuid,
);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a key for as long as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(
    /// A UUID, which is also the key in the database.
    pub Uuid,
);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one call for a lease, until LoadManager has answered the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(
    /// A number that a process never uses twice.
    pub u64,
);

/// Identifies one lease, from its grant to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(
    /// A number that a process never uses twice.
    pub u64,
);

/// Identifies the client for whom fairness is counted. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// The client is known by its IP address.
    Address(IpAddr),
    /// The client is known by the value of the header `queue.client_header`.
    Named(Arc<[u8]>),
    /// The client is known by its key.
    Key(KeyId),
    /// The client is one of a key that names its clients, by the value of the header `queue.client_header`.
    NamedByKey(KeyId, Arc<[u8]>),
}

/// The `x-request-id` of a request, for logs, answers and the history. Clients may use a value twice. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RequestId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientId::Address(address) => address.fmt(f),
            ClientId::Named(name) => f.write_str(&String::from_utf8_lossy(name)),
            ClientId::Key(key) => key.fmt(f),
            ClientId::NamedByKey(key, name) => write!(f, "{key}/{}", String::from_utf8_lossy(name)),
        }
    }
}

/// The name of a model as clients and endpoints write it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(Arc<str>);

impl ModelId {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ModelId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for ModelId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ModelId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
