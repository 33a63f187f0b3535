//! The target of requests: one endpoint's server, and what requests have shown about the server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::endpoint::{EndpointDefinition, EndpointKind};
use super::ids::EndpointId;
use super::time::Moment;

/// How long each request to an endpoint gets its own connection after the endpoint sent an answer that no request asked
/// for. The next model sync ends this earlier; model syncs come every five minutes.
const CAUGHT_FOR: Duration = Duration::from_secs(300);

/// The server to which a leased request goes. Every lease on the endpoint shares it until the endpoint's definition
/// changes.
pub struct Target {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The endpoint's name.
    pub name: String,
    /// The address below which the paths of the API lie.
    pub root_url: String,
    /// Sent as `Authorization: Bearer`; `None`: no key is sent.
    pub api_key: Option<String>,
    learnt: Arc<Learnt>,
}

/// What requests have shown about a server. All targets of the same server share it, so that a change of the name or of
/// the slots does not lose it.
#[derive(Default)]
struct Learnt {
    /// The server answers 400 to `stream_options.include_usage`.
    refuses_usage_option: AtomicBool,
    /// A kept connection was found closed since `take_restart_suspicion` was last called.
    may_be_restarted: AtomicBool,
    /// The server counts the tokens of its streams unasked.
    counts_unasked: AtomicBool,
    /// Until when each request gets its own connection, in microseconds of a [`Moment`]; 0 for never.
    caught_until_micros: AtomicU64,
    /// When the server last sent a byte of an answer, in microseconds of a [`Moment`]; 0 for never.
    heard_micros: AtomicU64,
}

impl Target {
    /// Returns the target of an endpoint to whose server no request has gone yet.
    pub fn new(id: EndpointId, definition: &EndpointDefinition) -> Self {
        Self {
            id,
            name: definition.name.clone(),
            root_url: definition.root_url(),
            api_key: definition.api_key.clone(),
            learnt: Arc::default(),
        }
    }

    /// Returns the target after a change of the definition. What requests have shown about the server stays, unless the
    /// address or the key has changed.
    pub fn redefined(&self, definition: &EndpointDefinition) -> Self {
        let target = Self::new(self.id, definition);
        let is_same = target.root_url == self.root_url && target.api_key == self.api_key;
        if is_same { Self { learnt: self.learnt.clone(), ..target } } else { target }
    }

    /// Tells whether two targets belong to the same endpoint, whose address and key did not change between them. Other
    /// parts of the definition may have changed.
    pub fn is_same_server(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.learnt, &other.learnt)
    }

    /// Tells whether the server is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.root_url.starts_with("https:")
    }

    /// Remembers that a byte of an answer came.
    pub fn hear(&self, now: Moment) {
        self.learnt.heard_micros.store(now.as_micros(), Ordering::Relaxed);
    }

    /// Returns when a byte of an answer last came; the start of the process if none ever came.
    pub fn heard(&self) -> Moment {
        Moment::from_micros(self.learnt.heard_micros.load(Ordering::Relaxed))
    }

    /// Remembers that a kept connection was found closed, as after a restart of the server.
    pub fn suspect_restart(&self) {
        self.learnt.may_be_restarted.store(true, Ordering::Relaxed);
    }

    /// Tells whether a kept connection was found closed since [`Target::take_restart_suspicion`] was last called.
    pub fn take_restart_suspicion(&self) -> bool {
        let flag = &self.learnt.may_be_restarted;
        flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed)
    }

    /// Remembers what follows from the endpoint's kind; `None` while the kind is not known.
    pub fn learn_kind(&self, kind: Option<EndpointKind>) {
        self.learnt.counts_unasked.store(kind == Some(EndpointKind::Llamacpp), Ordering::Relaxed);
    }

    /// Tells whether streams of the endpoint count their tokens without being asked, as those of llama.cpp do.
    pub fn counts_unasked(&self) -> bool {
        self.learnt.counts_unasked.load(Ordering::Relaxed)
    }

    /// Remembers that the endpoint sent an answer that no request asked for. Returns true if this was not known.
    pub fn catch(&self, now: Moment) -> bool {
        let until = now.after(CAUGHT_FOR).as_micros();
        self.learnt.caught_until_micros.swap(until, Ordering::Relaxed) <= now.as_micros()
    }

    /// Tells whether each request must get a connection of its own, because the endpoint sent an answer that no request
    /// asked for.
    pub fn is_caught(&self, now: Moment) -> bool {
        now.as_micros() < self.learnt.caught_until_micros.load(Ordering::Relaxed)
    }

    /// Lets requests share connections again, as after a model sync.
    pub fn trust_again(&self) {
        self.learnt.caught_until_micros.store(0, Ordering::Relaxed);
    }

    /// Tells whether the endpoint is known to answer 400 to `stream_options.include_usage`.
    pub fn refuses_usage_option(&self) -> bool {
        self.learnt.refuses_usage_option.load(Ordering::Relaxed)
    }

    /// Remembers that the endpoint answers 400 to `stream_options.include_usage`.
    pub fn remember_usage_option_refused(&self) {
        self.learnt.refuses_usage_option.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target `{}`", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_of_a_server_outlives_a_change_that_does_not_change_the_server() {
        let definition = EndpointDefinition::new("a", "http://gpu");
        let target = Target::new(EndpointId(uuid::Uuid::nil()), &definition);
        let renamed = target.redefined(&EndpointDefinition {
            name: "b".to_owned(),
            capability_score: Some(7),
            ..definition.clone()
        });
        target.hear(Moment::from_micros(5));
        target.remember_usage_option_refused();
        assert!(renamed.is_same_server(&target) && renamed.name == "b");
        assert_eq!((renamed.heard(), renamed.refuses_usage_option()), (Moment::from_micros(5), true));
        let other_key = EndpointDefinition { api_key: Some("k".to_owned()), ..definition.clone() };
        for moved in [other_key, EndpointDefinition::new("a", "http://other")] {
            let moved = target.redefined(&moved);
            assert!(!moved.is_same_server(&target) && !moved.refuses_usage_option());
        }
    }
}
