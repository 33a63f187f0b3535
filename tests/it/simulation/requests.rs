//! What is done to requests: they come, are granted, fail, go on, end and leave.

use std::time::Duration;

use leaseway::domain::attempts::FailedAttempt;
use leaseway::domain::blame::Sign;
use leaseway::domain::dispatch::admission::AdmissionDecision;
use leaseway::domain::dispatch::{Decision, Grant, Retried, Submitted};
use leaseway::domain::ids::{ClientId, LeaseId, ModelId, Ticket};
use leaseway::domain::request::{ApiKind, Failure, LeaseEnd, LeaseRequest, Outcome, Refusal, TokenCount};
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use rand::RngExt;
use rand::rngs::StdRng;

use super::journeys::Attempt;
use super::keys::{random_tokens, with_random_key};
use super::line::Waiter;
use super::{CLIENTS, Held, MAX_ATTEMPTS, MAX_WAITING, MODELS, WARM_UP, World};

impl World {
    pub fn submit(&mut self, random: &mut StdRng) {
        let model = ModelId::from(MODELS[random.random_range(0..MODELS.len())]);
        let client = ClientId::Named([random.random_range(0..CLIENTS)].into());
        let id = self.journeys.begin(random.random_range(1..=MAX_ATTEMPTS));
        let api_kind = [ApiKind::ChatCompletions, ApiKind::Embeddings][random.random_range(0..2)];
        let request = with_random_key(LeaseRequest::new(id, model, api_kind, client), random);
        let deadline = self.now.after(Duration::from_millis(random.random_range(0..3000)));
        let ticket = self.ticket();
        let mut decisions = Vec::new();
        let waiting = self.waiters().count();
        let exceeded = self.keys.exceeded(self.now, &request).filter(|_| !self.draining);
        let is_key_full = self.max_waiting_reached(&request);
        let (chosen, unserved) = (self.chosen(&request), self.unserved(&request).filter(|_| !self.draining));
        let submitted = self.dispatcher.submit(self.now, ticket, request.clone().into(), deadline, &mut decisions);
        self.follow(decisions);
        if !matches!(submitted, Submitted::Refused(_)) {
            assert_eq!(exceeded, None, "admitted although a limit is exceeded");
            self.keys.begin(self.now, &request);
        }
        match submitted {
            Submitted::Granted(grant) => {
                assert_eq!(Some(grant.target.id), chosen, "{:?}", self.choices.reports);
                self.granted(ticket, request, deadline, &grant);
            }
            Submitted::Refused(Refusal::RateLimitExceeded { limit, retry_after, status, .. }) => {
                assert_eq!(Some((limit, retry_after)), exceeded);
                assert_eq!(Some(*status), self.keys.status(self.now, &request));
                assert!(self.answered.insert(ticket));
                self.journeys.unserved(&request);
            }
            Submitted::Refused(refusal) => {
                assert_eq!(exceeded, None, "{refusal:?}");
                assert!(chosen.is_none() || self.draining, "{refusal:?} although an endpoint is free");
                assert!(self.answered.insert(ticket));
                let is_unsupported = matches!(refusal, Refusal::ApiNotSupported(_));
                assert!(unserved.map_or(!is_unsupported, |unserved| unserved == refusal), "{refusal:?}");
                let full = matches!(refusal, Refusal::QueueFull { .. });
                assert_eq!(full, waiting >= MAX_WAITING && !is_key_full && may_wait(&refusal));
                let key_full = matches!(refusal, Refusal::KeyQueueFull { .. });
                assert_eq!(key_full, is_key_full && may_wait(&refusal));
                let overloaded = matches!(refusal, Refusal::Overloaded { .. });
                let admission = self.admission.decide(waiting, MAX_WAITING);
                assert!(!overloaded || admission == AdmissionDecision::Reject);
                self.journeys.unserved(&request);
                self.journeys.refused(&request, refusal);
            }
            Submitted::Waiting => {
                assert!(chosen.is_none(), "waits although an endpoint is free");
                assert!(!is_key_full, "waits although too many requests of its key do");
                let is_loading = self.is_loading(&request.model);
                let waiter = |until| Waiter { ticket, request, deadline, arrived: self.now, until };
                match self.admission.decide(waiting, MAX_WAITING) {
                    _ if waiting >= MAX_WAITING => panic!("waits although the line is full"),
                    AdmissionDecision::Reject => panic!("waits although it was to be refused"),
                    _ if is_loading => self.warming.join(waiter(self.now.after(WARM_UP))),
                    AdmissionDecision::Accept => self.line.join(waiter(self.now)),
                    AdmissionDecision::AcceptWithDelay(delay) => self.delayed.join(waiter(self.now.after(delay))),
                }
            }
        }
    }

    /// Lets a request go on to another endpoint after its lease, which the observer holds no more, has failed.
    pub fn retry(&mut self, failed: LeaseEnd, held: Held) {
        let (ticket, outcome) = (self.ticket(), failed.outcome.clone());
        let attempt = self.attempt(&held, failed.lease, outcome.clone());
        let Held { endpoint, request, deadline, .. } = held;
        let (own, verdict) = self.journeys.judge(&request, &attempt, true);
        self.judge(&attempt, own);
        self.learn_apis(&attempt, &request);
        let mut decisions = Vec::new();
        // If its key was at its limit, the request goes on before others of the key do.
        self.keys.held_back = request.key.filter(|_| self.is_at_limit_with(&request, 1));
        let retried = self.dispatcher.retry(self.now, ticket, failed, deadline, &mut decisions);
        let Retried { ended, request, submitted } = retried.expect("the lease was held");
        let request = (*request).clone();
        assert_eq!((ended.target.id, &ended.outcome), (endpoint, &outcome));
        self.journeys.lease_ended(&ended);
        let goes_on = self.has_untried(&request);
        assert_eq!(ended.is_final, !goes_on, "the failed attempt is the last one if nobody is left");
        let verdict = match self.journeys.open(&request) {
            Some(open) if !goes_on => Some((open, Sign::Bad)),
            _ => verdict,
        };
        verdict.into_iter().for_each(|(attempt, sign)| self.judge(&attempt, sign));
        // The verdict, or one that follows from it, may have taken the last untried endpoint away.
        if goes_on && matches!(submitted, Submitted::Refused(Refusal::NothingUntried { .. })) {
            while self.has_untried(&request) && !decisions.is_empty() {
                self.follow(vec![decisions.remove(0)]);
            }
        }
        let is_of_key = |decision: &Decision| match decision {
            Decision::Grant(ticket, _) => self.keys.held_back.is_some_and(|key| {
                self.waiters().any(|waiter| waiter.ticket == *ticket && waiter.request.key == Some(key))
            }),
            Decision::Refuse(..) => false,
        };
        let place = decisions.iter().position(is_of_key).unwrap_or(decisions.len());
        let of_key = decisions.split_off(place);
        let is_vain = goes_on && !self.has_untried(&request);
        if goes_on && let Submitted::Refused(_) = submitted {
            self.judge_open(&request, if is_vain { Sign::Bad } else { Sign::Nothing });
        }
        self.follow(decisions);
        self.keys.held_back = None;
        let chosen = self.chosen(&request).filter(|_| goes_on);
        match submitted {
            Submitted::Granted(grant) => {
                assert_eq!(Some(grant.target.id), chosen, "{:?}", self.choices.reports);
                self.granted(ticket, request, deadline, &grant);
            }
            Submitted::Refused(refusal) => {
                assert!(chosen.is_none(), "{refusal:?} although an endpoint is free");
                assert!(self.answered.insert(ticket));
                let is_right = match &refusal {
                    Refusal::NothingUntried { .. } => !goes_on || is_vain,
                    Refusal::Draining => self.draining && goes_on && !is_vain,
                    refusal => *refusal == Refusal::QueueTimeout { waited: Duration::ZERO } && goes_on && !is_vain,
                };
                assert!(is_right, "{refusal:?}");
                if goes_on {
                    self.journeys.unserved(&request);
                }
                self.keys.leave(self.now, &request);
                self.journeys.refused(&request, refusal);
            }
            Submitted::Waiting => {
                assert!(chosen.is_none() && !self.draining, "waits although an endpoint is free, or nobody may wait");
                self.line.join(Waiter { ticket, request, deadline, arrived: self.now, until: self.now });
            }
        }
        self.follow(of_key);
    }

    /// Begins to drain: nobody waits any more, and what runs goes on.
    pub fn drain(&mut self) {
        let mut decisions = Vec::new();
        self.draining = true;
        self.dispatcher.drain(self.now, &mut decisions);
        let is_refused = |decision: &Decision| matches!(decision, Decision::Refuse(_, Refusal::Draining));
        assert!(decisions.iter().all(is_refused), "{decisions:?} while draining");
        self.follow(decisions);
    }

    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }

    pub fn granted(&mut self, ticket: Ticket, request: LeaseRequest, deadline: Moment, grant: &Grant) {
        assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
        let facts = self.endpoints.get(&grant.target.id).expect("granted on an endpoint that is gone");
        assert!(self.can_serve(facts, &request), "granted on {facts:?}, which cannot serve {request:?}");
        assert!(!self.draining || request.is_retry(), "granted to a new request while draining");
        self.journeys.granted(&request, grant);
        assert_eq!(grant.rate.as_deref().copied(), self.keys.status(self.now, &request));
        let (target, granted) = (grant.target.clone(), grant.granted);
        let held = Held { endpoint: target.id, target, request, deadline, granted, has_begun: false };
        assert!(self.leases.insert(grant.lease, held).is_none(), "a lease id is used twice");
        self.choices.granted(self.now, grant.target.id, grant.lease);
    }

    pub fn follow(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            match decision {
                Decision::Grant(ticket, grant) => {
                    let endpoint = &self.endpoints[&grant.target.id];
                    let suits = |request: &LeaseRequest| self.can_serve(endpoint, request);
                    let next = self.line.next_for(suits).or_else(|| self.delayed.next_for(suits));
                    assert_eq!(Some(ticket), next, "served out of turn");
                    let waiter = self.line.leave(ticket).inspect(|waiter| self.line.pass_turn(&waiter.request.client));
                    let delayed =
                        || self.delayed.leave(ticket).inspect(|waiter| self.delayed.pass_turn(&waiter.request.client));
                    let waiter = waiter.or_else(delayed).expect("granted to one who does not wait");
                    assert!(waiter.deadline > self.now, "granted after the deadline");
                    self.granted(ticket, waiter.request, waiter.deadline, &grant);
                }
                Decision::Refuse(ticket, refusal) => {
                    let waiter = self.leave(ticket).expect("refused to one who does not wait");
                    assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
                    assert_eq!(waiter.deadline <= self.now, matches!(refusal, Refusal::QueueTimeout { .. }));
                    let warmed = refusal == Refusal::WarmingUp;
                    assert!(!warmed || waiter.until <= self.now, "refused before its wait was over");
                    let is_unsupported = matches!(refusal, Refusal::ApiNotSupported(_));
                    assert!(!is_unsupported || self.unserved(&waiter.request).as_ref() == Some(&refusal));
                    self.journeys.unserved(&waiter.request);
                    self.keys.leave(self.now, &waiter.request);
                    let is_vain = matches!(refusal, Refusal::NothingUntried { .. });
                    self.judge_open(&waiter.request, if is_vain { Sign::Bad } else { Sign::Nothing });
                    self.journeys.refused(&waiter.request, refusal);
                }
            }
        }
    }

    pub fn cancel(&mut self, random: &mut StdRng) {
        let ticket = Ticket(random.random_range(0..self.next_ticket + 1));
        let mut decisions = Vec::new();
        if let Some(waiter) = self.leave(ticket) {
            self.answered.insert(ticket);
            self.journeys.unserved(&waiter.request);
            self.keys.leave(self.now, &waiter.request);
            self.judge_open(&waiter.request, Sign::Nothing);
        }
        self.dispatcher.cancel(self.now, ticket, &mut decisions);
        self.follow(decisions);
    }

    pub fn end(&mut self, random: &mut StdRng) {
        let mut held: Vec<LeaseId> = self.leases.keys().copied().collect();
        held.sort_unstable();
        let lease = match held.get(random.random_range(0..held.len() + 1)) {
            Some(lease) => *lease,
            None => LeaseId(random.random_range(0..1_000_000)),
        };
        let tokens = self.leases.get(&lease).and_then(|held| random_tokens(&held.request, random));
        let outcome = random_outcome(tokens, random);
        let end = LeaseEnd::new(lease, outcome.clone());
        let mut decisions = Vec::new();
        let Some(held) = self.leases.remove(&lease) else {
            assert!(self.dispatcher.end(self.now, end, &mut decisions).is_none(), "only leases that are held can end");
            return self.follow(decisions);
        };
        if let Outcome::Failed(failure) = outcome.clone()
            && !held.has_begun
            && random.random_bool(0.8)
        {
            // Else its answer was relayed, or broke off in the middle.
            let failed = failed_attempt(&held, failure);
            if self.journeys.goes_on(&held.request, failed) {
                return self.retry(end, held);
            }
        }
        self.keys.end(self.now, &held.request, &outcome);
        let attempt = self.attempt(&held, lease, outcome);
        let (own, verdict) = self.journeys.judge(&held.request, &attempt, false);
        self.judge(&attempt, own);
        self.learn_apis(&attempt, &held.request);
        let verdict = verdict.filter(|_| !held.has_begun);
        verdict.into_iter().for_each(|(attempt, sign)| self.judge(&attempt, sign));
        let ended = self.dispatcher.end(self.now, end, &mut decisions).expect("the lease was held");
        assert_eq!((ended.target.id, ended.is_final), (held.endpoint, true));
        self.journeys.lease_ended(&ended);
        self.follow(decisions);
    }

    /// The first byte of the answer to a request that holds a lease comes, and the answer is good.
    pub fn begin_answer(&mut self, random: &mut StdRng) {
        let mut held: Vec<LeaseId> = self.leases.keys().copied().collect();
        held.sort_unstable();
        let Some(lease) = held.get(random.random_range(0..held.len() + 1)).copied() else { return };
        let mut decisions = Vec::new();
        self.dispatcher.answer_began(self.now, lease, &mut decisions);
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let has_begun = std::mem::replace(&mut held.has_begun, true);
        let (target, request) = (held.target.clone(), held.request.clone());
        if !has_begun {
            self.judge_open(&request, Sign::Bad);
        }
        if self.is_same_server(&target) {
            self.choices.answer_began(self.now, target.id, lease);
        }
        let is_vain_retry = |decision: &Decision| matches!(decision, Decision::Refuse(..));
        let (vain_retries, grants) = decisions.into_iter().partition(is_vain_retry);
        self.follow(vain_retries);
        self.follow(grants);
    }

    /// Tells whether an endpoint is still the server that a lease was granted on.
    fn is_same_server(&self, target: &Target) -> bool {
        self.endpoints.get(&target.id).is_some_and(|facts| facts.target.is_same_server(target))
    }

    /// Returns the attempt whose lease ends now.
    fn attempt(&self, held: &Held, lease: LeaseId, outcome: Outcome) -> Attempt {
        Attempt { target: held.target.clone(), lease, granted: held.granted, ended: self.now, outcome }
    }

    /// Takes note of what a lease that has ended says about its endpoint, if that is still what it was and has not served
    /// a request since.
    pub fn judge(&mut self, attempt: &Attempt, sign: Sign) {
        let Attempt { target, outcome, ended, .. } = attempt;
        let is_same_server = self.is_same_server(target);
        if is_same_server && self.choices.has_served_since(target.id, *ended) {
            return;
        }
        if let (Sign::Bad, Outcome::Failed(failure)) = (sign, outcome) {
            self.blamed.push((target.id, failure.clone()));
        }
        if is_same_server {
            self.choices.judged(self.now, attempt, sign);
        }
    }

    /// Takes note of a success, and of an answer of 501 if the endpoint has not served the API before; both only if the
    /// endpoint is still what it was.
    fn learn_apis(&mut self, Attempt { target, outcome, .. }: &Attempt, request: &LeaseRequest) {
        let has_model = self.endpoints.get(&target.id).is_some_and(|facts| facts.models.contains(&request.model));
        if !has_model || !self.is_same_server(target) {
            return;
        }
        let asked = (target.id, request.model.clone(), request.api_kind);
        match outcome {
            Outcome::Succeeded { .. } => drop(self.served.insert(asked)),
            Outcome::Failed(Failure::Status(501)) if !self.served.contains(&asked) => drop(self.unserved.insert(asked)),
            Outcome::Failed(_) | Outcome::Abandoned => {}
        }
    }

    /// Takes note of a verdict on the endpoint that a request's attempts have left undecided.
    fn judge_open(&mut self, request: &LeaseRequest, sign: Sign) {
        self.journeys.open(request).iter().for_each(|attempt| self.judge(attempt, sign));
    }
}

/// Tells whether a request refused so could have waited if there had been room.
fn may_wait(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::QueueFull { .. }
        | Refusal::KeyQueueFull { .. }
        | Refusal::Overloaded { .. }
        | Refusal::QueueTimeout { .. } => true,
        Refusal::ModelNotFound
        | Refusal::NoEndpointOnline
        | Refusal::ApiNotSupported(_)
        | Refusal::WarmingUp
        | Refusal::NothingUntried { .. }
        | Refusal::RateLimitExceeded { .. }
        | Refusal::Draining => false,
    }
}

fn random_outcome(tokens: Option<TokenCount>, random: &mut StdRng) -> Outcome {
    let failure = match random.random_range(0..20) {
        0..7 => return Outcome::Abandoned,
        7..13 => return Outcome::Succeeded { tokens },
        13..15 => Failure::Status(500),
        15 => Failure::Status(501),
        16 => Failure::Status(429),
        17 => Failure::Status(400),
        18 => Failure::ConnectionLost("reset".to_owned()),
        _ => Failure::FirstByteTimeout,
    };
    Outcome::Failed(failure)
}

/// Returns what is known of an attempt that failed before its first byte.
fn failed_attempt(held: &Held, failure: Failure) -> FailedAttempt<String> {
    let endpoint = held.target.clone();
    let answer = matches!(failure, Failure::Status(_)).then(|| endpoint.name.clone());
    FailedAttempt { endpoint, answer, is_busy: failure == Failure::Status(429), failure, executions: 1 }
}
