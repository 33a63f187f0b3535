//! Decides whether an endpoint is to blame for a failed attempt of a request.
//!
//! A connection that fails and an answer that does not come are the endpoint's fault, whatever the request is. An
//! answer of 500 or above may be the fault of the request. If a second endpoint answers the same request with such a
//! status, too, the first endpoint is not to blame; if another endpoint serves the request, the first
//! endpoint is to blame. If no endpoint is left to compare with, the endpoint is to blame.

use std::sync::Arc;

use super::ids::LeaseId;
use super::request::{Failure, Outcome};
use super::target::Target;
use super::time::Moment;

/// What a lease says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The endpoint serves requests.
    Good,
    /// The endpoint is to blame for a failure.
    Bad,
    /// The endpoint has too much to do.
    Busy,
    /// The request's next attempts decide. Another sign for the same lease follows.
    Undecided,
    /// The end of the lease says nothing about the endpoint.
    Nothing,
}

/// One attempt of a request, which has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The lease of the attempt.
    pub lease: LeaseId,
    /// When the lease was granted.
    pub granted: Moment,
    /// When the lease ended. This is the time of a failure, even if the verdict on the failure comes later.
    pub ended: Moment,
}

/// An attempt that failed, and whose endpoint may be to blame.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The endpoint.
    pub target: Arc<Target>,
    /// The attempt.
    pub attempt: Attempt,
    /// Why the attempt failed.
    pub failure: Failure,
}

/// An endpoint that was found to be to blame.
#[derive(Clone, Debug)]
pub struct Blamed {
    /// The endpoint, with the server that failed.
    pub target: Arc<Target>,
    /// When it failed.
    pub since: Moment,
    /// The failure for which the endpoint is to blame.
    pub failure: Failure,
}

/// What the answers of 500 or above that a request got so far show.
#[derive(Clone, Debug, Default)]
pub enum Comparison {
    /// No endpoint has answered with such a status.
    #[default]
    Nothing,
    /// One endpoint has answered with such a status. The next attempts decide whether it is to blame.
    Undecided(Arc<Suspect>),
    /// The request is at fault: two endpoints answered with such a status, or an endpoint does not serve the request's
    /// API.
    Excused,
}

/// How much a failure says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The endpoint is to blame, whatever was asked.
    AtOnce,
    /// The endpoint is to blame unless a second endpoint answers the request with such a status, too.
    UnlessRepeated,
    /// The failure is not the endpoint's fault.
    Never,
}

impl Failure {
    /// Tells how much the failure says about the endpoint. A 4xx is the client's fault, a 429 shows that the endpoint is
    /// busy, and a 501 names an API that the endpoint does not serve.
    pub fn blame(&self) -> Blame {
        match self {
            Failure::Unreachable(_) | Failure::ConnectionLost(_) => Blame::AtOnce,
            Failure::FirstByteTimeout | Failure::IdleTimeout => Blame::AtOnce,
            Failure::Status(status) if *status >= 500 && *status != NOT_IMPLEMENTED => Blame::UnlessRepeated,
            Failure::Status(_) | Failure::RequestCutOff | Failure::ShutDown => Blame::Never,
        }
    }

    /// Tells whether the endpoint answered that it does not serve the request's API.
    pub fn is_not_implemented(&self) -> bool {
        *self == Failure::Status(NOT_IMPLEMENTED)
    }

    /// Tells whether the status is 500 or above. A second such failure of a request shows that the first endpoint is
    /// not to blame.
    fn is_server_error(&self) -> bool {
        matches!(self, Failure::Status(500..))
    }
}

/// The status by which an endpoint says that it does not serve an API.
const NOT_IMPLEMENTED: u16 = 501;

impl Comparison {
    /// Returns what the end of a request's next attempt says about that attempt's endpoint; `goes_on` if another
    /// attempt follows.
    pub fn sign_of(&self, outcome: &Outcome, goes_on: bool) -> Sign {
        let failure = match outcome {
            Outcome::Succeeded { .. } => return Sign::Good,
            Outcome::Abandoned => return Sign::Nothing,
            Outcome::Failed(failure) => failure,
        };
        match (failure.blame(), self) {
            (Blame::AtOnce, _) => Sign::Bad,
            (Blame::Never, _) if *failure == Failure::Status(429) => Sign::Busy,
            (Blame::Never, _) => Sign::Nothing,
            (Blame::UnlessRepeated, Comparison::Nothing) if goes_on => Sign::Undecided,
            (Blame::UnlessRepeated, Comparison::Nothing) => Sign::Bad,
            (Blame::UnlessRepeated, Comparison::Undecided(_) | Comparison::Excused) => Sign::Nothing,
        }
    }

    /// Returns what the end of a request's next attempt says about the endpoint that was undecided until then.
    pub fn verdict(&self, outcome: &Outcome, goes_on: bool) -> Sign {
        match outcome {
            Outcome::Succeeded { .. } => Sign::Bad,
            Outcome::Abandoned => Sign::Nothing,
            Outcome::Failed(failure) if failure.is_server_error() => Sign::Nothing,
            Outcome::Failed(_) if goes_on => Sign::Undecided,
            // No endpoint is left to compare with.
            Outcome::Failed(failure) if failure.blame() == Blame::AtOnce => Sign::Bad,
            Outcome::Failed(Failure::Status(429)) => Sign::Bad,
            // Another endpoint has found the request at fault, or has not judged the request.
            Outcome::Failed(_) => Sign::Nothing,
        }
    }

    /// Returns the comparison after one more attempt has failed.
    #[must_use]
    pub fn after(&self, failed: Suspect) -> Self {
        match self {
            _ if !failed.failure.is_server_error() => self.clone(),
            Comparison::Nothing if !failed.failure.is_not_implemented() => Comparison::Undecided(Arc::new(failed)),
            Comparison::Nothing | Comparison::Undecided(_) | Comparison::Excused => Comparison::Excused,
        }
    }

    /// Returns the attempt whose endpoint may be to blame.
    pub fn undecided(&self) -> Option<&Arc<Suspect>> {
        match self {
            Comparison::Undecided(suspect) => Some(suspect),
            Comparison::Nothing | Comparison::Excused => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::endpoint::EndpointDefinition;
    use crate::domain::ids::EndpointId;

    fn suspect(number: u64, failure: Failure) -> Suspect {
        let definition = EndpointDefinition::new("e", "http://e");
        let target = Arc::new(Target::new(EndpointId(Uuid::from_u128(number.into())), &definition));
        let (granted, ended) = (Moment::from_micros(0), Moment::from_micros(0));
        Suspect { target, attempt: Attempt { lease: LeaseId(number), granted, ended }, failure }
    }

    /// Returns what each lease of a request says in the end, `+` good, `-` bad, `~` busy, `.` nothing, `?` undecided to
    /// the last. The request goes on after each attempt but the last.
    fn signs(outcomes: &[Outcome]) -> String {
        let mut comparison = Comparison::Nothing;
        let mut signs: Vec<Sign> = Vec::new();
        for (number, outcome) in outcomes.iter().enumerate() {
            let goes_on = number + 1 < outcomes.len();
            signs.push(comparison.sign_of(outcome, goes_on));
            if let Some(suspect) = comparison.undecided() {
                signs[suspect.attempt.lease.0 as usize] = comparison.verdict(outcome, goes_on);
            }
            if let Outcome::Failed(failure) = outcome {
                comparison = comparison.after(suspect(number as u64, failure.clone()));
            }
        }
        let letter = |sign| match sign {
            Sign::Good => '+',
            Sign::Bad => '-',
            Sign::Busy => '~',
            Sign::Undecided => '?',
            Sign::Nothing => '.',
        };
        signs.into_iter().map(letter).collect()
    }

    #[test]
    fn a_server_error_is_judged_by_what_other_endpoints_make_of_the_request() {
        let served = || Outcome::Succeeded { tokens: None };
        let left = || Outcome::Abandoned;
        let status = |status| Outcome::Failed(Failure::Status(status));
        let lost = || Outcome::Failed(Failure::ConnectionLost("reset".to_owned()));
        let slow = || Outcome::Failed(Failure::FirstByteTimeout);
        let check = |outcomes: &[Outcome], expected| assert_eq!(signs(outcomes), expected, "{outcomes:?}");
        check(&[served()], "+");
        check(&[left()], ".");
        // There is no endpoint to compare with.
        check(&[status(500)], "-");
        check(&[status(500), lost()], "--");
        check(&[status(500), slow()], "--");
        check(&[status(500), status(429)], "-~");
        check(&[lost(), status(500)], "--");
        // Another endpoint serves the request.
        check(&[status(500), served()], "-+");
        check(&[status(503), lost(), served()], "--+");
        check(&[status(500), status(429), served()], "-~+");
        // Another endpoint fails alike.
        check(&[status(500), status(500)], "..");
        check(&[status(500), status(502), served()], "..+");
        check(&[status(500), lost(), status(503)], ".-.");
        check(&[status(500), status(500), status(500)], "...");
        // The failure was never compared, or is the client's fault.
        check(&[status(500), left()], "..");
        check(&[status(500), status(400)], "..");
        check(&[status(500), Outcome::Failed(Failure::ShutDown)], "..");
        // An API that an endpoint does not serve.
        check(&[status(501)], ".");
        check(&[status(501), served()], ".+");
        check(&[status(500), status(501)], "..");
        check(&[status(501), status(500)], "..");
        // No server error is to be judged.
        check(&[status(404)], ".");
        check(&[lost(), served()], "-+");
        check(&[Outcome::Failed(Failure::RequestCutOff)], ".");
    }
}
