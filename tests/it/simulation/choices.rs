//! Which endpoint is to be chosen, by the rules as they are written, over plain lists.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use leaseway::domain::blame::Sign;
use leaseway::domain::dispatch::choose::{Balancing, Mode};
use leaseway::domain::endpoint::EndpointFacts;
use leaseway::domain::ids::{EndpointId, LeaseId};
use leaseway::domain::load::LoadReport;
use leaseway::domain::time::Moment;

use super::journeys::Attempt;

/// What an observer knows who sees every report and every grant.
pub struct Choices {
    pub rules: Balancing,
    pub reports: HashMap<EndpointId, (LoadReport, Moment)>,
    /// Endpoints that failed a request and have neither served one nor answered a probe since. The time is that of the
    /// failure.
    pub suspects: HashMap<EndpointId, Moment>,
    pub breakers: HashMap<EndpointId, Breaker>,
    /// When each endpoint last served a request.
    served: HashMap<EndpointId, Moment>,
    turns: HashMap<EndpointId, u64>,
    grants: u64,
}

/// How an endpoint has failed of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    /// Failures in a row while it was not skipped.
    failures: u32,
    /// How long it was skipped last, in seconds; 0 while it was not.
    skipped_secs: u64,
    /// When that began.
    opened: Moment,
    /// Until when it is skipped.
    until: Moment,
    /// The one lease it is tried with after that.
    trial: Option<LeaseId>,
    /// The last such lease, while other endpoints decide whether its failure was the endpoint's fault.
    unproven: Option<LeaseId>,
}

impl Breaker {
    pub fn is_closed(&self) -> bool {
        self.skipped_secs == 0
    }

    fn is_skipped(&self, now: Moment) -> bool {
        !self.is_closed() && (now < self.until || self.trial.is_some())
    }

    /// Returns when it is to be tried, if that is yet to come.
    pub fn trial(&self, now: Moment) -> Option<Moment> {
        (!self.is_closed() && now < self.until).then_some(self.until)
    }

    /// The request of the trial fails, or the third one in a row.
    fn skip(&mut self, since: Moment, secs: u64, unproven: Option<LeaseId>) {
        (self.trial, self.skipped_secs, self.opened, self.unproven) = (None, secs.clamp(1, 60), since, unproven);
        self.until = since.after(Duration::from_secs(self.skipped_secs));
    }

    /// Takes note of a failure; `newest` is when the newest failure came.
    fn failed(&mut self, now: Moment, Attempt { lease, .. }: &Attempt, newest: Moment) {
        if self.is_closed() {
            self.failures += 1;
            if self.failures == 3 {
                self.skip(newest, 1, None);
            }
        } else if self.trial == Some(*lease) {
            self.skip(newest, 2 * self.skipped_secs, None);
        } else if self.unproven == Some(*lease) {
            let Self { trial, until, opened, skipped_secs, .. } = *self;
            self.skip(opened, 2 * skipped_secs, None);
            // A trial that is allowed stays allowed.
            (self.trial, self.until) = (trial, if now < until { self.until } else { until });
        } else if now < self.until {
            self.opened = self.opened.max(newest);
            self.until = self.opened.after(Duration::from_secs(self.skipped_secs));
        }
    }
}

impl Choices {
    pub fn new(rules: Balancing) -> Self {
        Self {
            rules,
            reports: HashMap::new(),
            suspects: HashMap::new(),
            breakers: HashMap::new(),
            served: HashMap::new(),
            turns: HashMap::new(),
            grants: 0,
        }
    }

    /// Takes note of a grant.
    pub fn granted(&mut self, now: Moment, id: EndpointId, lease: LeaseId) {
        self.grants += 1;
        self.turns.insert(id, self.grants);
        let tried = self.breakers.get_mut(&id).filter(|breaker| !breaker.is_closed() && now >= breaker.until);
        if let Some(breaker) = tried {
            breaker.trial = breaker.trial.or(Some(lease));
        }
    }

    /// Tells whether an endpoint has served a request after this time.
    pub fn has_served_since(&self, id: EndpointId, time: Moment) -> bool {
        self.served.get(&id).is_some_and(|served| *served > time)
    }

    /// Takes note of what an attempt says about its endpoint. The newest evidence wins: a failure is as old as the end of
    /// its attempt, and a success as old as its beginning.
    pub fn judged(&mut self, now: Moment, attempt: &Attempt, sign: Sign) {
        let Attempt { target, lease, granted, ended, .. } = attempt;
        let id = target.id;
        if matches!(sign, Sign::Bad | Sign::Busy) {
            let since = self.suspects.entry(id).or_insert(*ended);
            *since = (*since).max(*ended);
        }
        match sign {
            Sign::Good => {
                self.served.insert(id, *ended);
                self.suspects.retain(|other, since| *other != id || *granted < *since);
                self.breakers
                    .retain(|other, breaker| *other != id || !breaker.is_closed() && *granted < breaker.opened);
            }
            Sign::Bad => self.breakers.entry(id).or_default().failed(now, attempt, self.suspects[&id]),
            Sign::Busy | Sign::Nothing | Sign::Undecided => {
                let tried = self.breakers.get_mut(&id).filter(|breaker| breaker.trial == Some(*lease));
                let Some(breaker) = tried else { return };
                breaker.trial = None;
                if sign == Sign::Undecided {
                    breaker.skip(*ended, breaker.skipped_secs, Some(*lease));
                }
            }
        }
    }

    /// Takes note that an endpoint answered a probe.
    pub fn probe_answered(&mut self, now: Moment, id: EndpointId, sent: Moment) {
        if self.suspects.get(&id).is_some_and(|failed| sent >= *failed) {
            self.suspects.remove(&id);
        }
        let skipped = self.breakers.get_mut(&id).filter(|breaker| !breaker.is_closed() && now < breaker.until);
        if let Some(breaker) = skipped.filter(|breaker| sent >= breaker.opened.after(Duration::from_secs(1))) {
            breaker.until = now;
        }
    }

    /// Takes note that a good answer of an endpoint has begun.
    pub fn answer_began(&mut self, now: Moment, id: EndpointId, lease: LeaseId) {
        self.served.insert(id, now);
        if self.breakers.get(&id).is_some_and(|breaker| breaker.trial == Some(lease)) {
            self.breakers.remove(&id);
            self.suspects.remove(&id);
        }
    }

    /// Tells whether an endpoint is skipped because it has failed again and again.
    pub fn is_skipped(&self, now: Moment, id: EndpointId) -> bool {
        self.breakers.get(&id).is_some_and(|breaker| breaker.is_skipped(now))
    }

    /// Returns the one to be chosen of these endpoints with a free slot, each with its requests in flight; `last_resort` if
    /// every endpoint of the model has failed so often that it would be skipped.
    pub fn expected(
        &self,
        now: Moment,
        candidates: &[(&EndpointFacts, usize)],
        last_resort: bool,
    ) -> Option<EndpointId> {
        let turn = |id: EndpointId| (self.turns.get(&id).copied().unwrap_or(0), id);
        let fresh = |id: EndpointId| {
            let (report, received) = self.reports.get(&id)?;
            (now.since(*received) < self.rules.fresh_for).then_some(report)
        };
        let suspect = |facts: &EndpointFacts| self.suspects.contains_key(&facts.id());
        let in_turn = candidates.iter().min_by_key(|(facts, _)| (suspect(facts), turn(facts.id())));
        let in_turn = in_turn.map(|(facts, _)| facts.id());
        let over = |value: Option<f64>, limit: f64| value.unwrap_or(0.0) > limit;
        let score = |facts: &EndpointFacts| {
            let reported = fresh(facts.id()).and_then(|report| report.capability_score);
            Reverse(facts.capability_score.or(reported).unwrap_or(0))
        };
        let cpu_busy = |report: &LoadReport| over(report.cpu_usage, self.rules.cpu_busy);
        let busy = |facts: &EndpointFacts| match fresh(facts.id()) {
            None => false,
            Some(report) if report.gpu_usage.is_some() || report.vram_usage.is_some() => {
                over(report.gpu_usage, self.rules.gpu_busy)
                    || over(report.vram_usage, self.rules.vram_busy)
                    || report.active_requests.unwrap_or(0) >= self.rules.active_busy
            }
            Some(report) => cpu_busy(report),
        };
        match self.rules.mode {
            Mode::RoundRobin => in_turn,
            Mode::Auto if candidates.iter().all(|(facts, _)| busy(facts)) && !last_resort => in_turn,
            Mode::Auto => {
                // Slots are 1 to 3, so that six times a part of them is a whole number.
                let key = |(facts, in_flight): &&(&EndpointFacts, usize)| {
                    (
                        suspect(facts),
                        busy(facts),
                        score(facts),
                        in_flight * 6 / facts.max_concurrency as usize,
                        turn(facts.id()),
                    )
                };
                candidates.iter().min_by_key(key).map(|(facts, _)| facts.id())
            }
            Mode::Metrics => {
                let load = |facts: &EndpointFacts| {
                    let report = fresh(facts.id())?;
                    let active = f64::from(report.active_requests.unwrap_or(0));
                    Some((report.cpu_usage? + report.memory_usage? + 10.0 * active, cpu_busy(report)))
                };
                if candidates.iter().all(|(facts, _)| load(facts).is_some_and(|(_, busy)| busy)) && !last_resort {
                    return in_turn;
                }
                // Reported values are whole numbers here.
                let key = |(facts, _): &&(&EndpointFacts, usize)| {
                    let load = load(facts).map_or(u64::MAX, |(load, _)| load as u64);
                    (suspect(facts), load, score(facts), turn(facts.id()))
                };
                candidates.iter().min_by_key(key).map(|(facts, _)| facts.id())
            }
        }
    }
}
