//! What keys have used: requests and tokens by key, model, API and day.

use chrono::NaiveDate;

use super::history::{Counters, HistoryEnd};
use super::ids::{KeyId, ModelId};
use super::request::{ApiKind, LeaseRequest, Outcome, Refusal, TokenCount, UnservedRequest};

/// Whose use it is, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UseKey {
    /// The key.
    pub key: KeyId,
    /// The model that the client asked for.
    pub model: ModelId,
    /// The API of the requests.
    pub api_kind: ApiKind,
    /// The server's local day on which the requests ended.
    pub date: NaiveDate,
}

/// Sums over requests. A request counts once, whatever its number of leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// The requests that had a lease, and those whose client left before.
    pub requests: Counters,
    /// The requests that were refused; they do not count in `requests`.
    pub refused: i64,
    /// Tokens of prompts, as far as endpoints have reported them.
    pub input_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
}

impl KeyUse {
    /// Returns what the end of a request adds to the use of its key; `None` if the request has no key or goes on. A model
    /// that no endpoint has does not count, since clients can invent as many as they like.
    pub fn of(end: &HistoryEnd, today: NaiveDate) -> Option<(UseKey, Self)> {
        let (request, used) = match end {
            HistoryEnd::Lease(ended) if ended.is_final => (&ended.request, Self::of_outcome(&ended.outcome)),
            HistoryEnd::Lease(_) => return None,
            HistoryEnd::Unserved(UnservedRequest { refusal: Some(Refusal::ModelNotFound), .. }) => return None,
            HistoryEnd::Unserved(UnservedRequest { request, refusal, .. }) => match refusal {
                Some(_) => (request, Self { refused: 1, ..Self::default() }),
                None => (request, Self::of_outcome(&Outcome::Abandoned)),
            },
        };
        let LeaseRequest { model, api_kind, .. } = &**request;
        Some((UseKey { key: request.key?, model: model.clone(), api_kind: *api_kind, date: today }, used))
    }

    fn of_outcome(outcome: &Outcome) -> Self {
        let requests = Counters::of(outcome);
        let whole = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        match outcome {
            Outcome::Succeeded { tokens: Some(TokenCount { input, output, .. }) } => Self {
                requests,
                input_tokens: input.map_or(0, whole),
                output_tokens: whole(*output),
                ..Self::default()
            },
            Outcome::Succeeded { tokens: None } | Outcome::Failed(_) | Outcome::Abandoned => {
                Self { requests, ..Self::default() }
            }
        }
    }

    /// Adds other sums.
    pub fn add(&mut self, more: Self) {
        self.requests.add(more.requests);
        self.refused += more.refused;
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
    }
}
