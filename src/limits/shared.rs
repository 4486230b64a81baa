//! Limits that replicas share: Redis is asked for what a request takes. While it is away each replica allows its part, counted
//! in memory, or nothing.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Moment, Quota, Quotas,
    gcra::Correction,
    memory::LimitExceeded,
    subject::{Claim, Claimed, Scope, Share, Subject, Unit},
};
use crate::{
    budgets::{Counter, Spending},
    concurrent::sharing_status::SharingStatus,
    config::{SharedLimits, WhenRedisIsAway},
    domain::{
        clock::Clock,
        spending::{BudgetKey, RemoteSpend},
    },
    store::redis::{self, Answer, Given, Redis, Replica, SharedBudget},
};

/// What replicas share, and how.
#[derive(Debug)]
pub struct Shared {
    redis: Redis,
    pub(super) replicas: u32,
    pub(super) fail: WhenRedisIsAway,
    patience: Duration,
}

/// Which replica this is.
#[derive(Debug)]
pub struct Identity {
    /// What tells this process from all others.
    pub process: [u8; 8],
    /// The name of its data folder, under which the ledger has its rows.
    pub origin: Arc<str>,
    /// The time in Redis, for tests; none = the clock of its server.
    pub redis_clock: Option<Clock>,
}

impl Shared {
    /// Begins to ask Redis, which is told what was spent of the budgets in `spending`.
    ///
    /// # Errors
    /// When it cannot even be begun; Redis may be away.
    pub fn start(
        sharing: &SharedLimits,
        identity: Identity,
        spending: Arc<Spending>,
        status: Arc<SharingStatus>,
    ) -> io::Result<Self> {
        let Identity { process, origin, redis_clock: clock } = identity;
        let spent = move || {
            let all = spending.all().into_iter().filter(|(_, counter)| counter.spent() > 0);
            all.map(|(key, counter)| SharedBudget::new(&key, counter.own(), counter.others())).collect()
        };
        let redis = Redis::start(sharing, Replica { process, origin, spent: Box::new(spent), clock }, status)?;
        Ok(Self { redis, replicas: sharing.replicas, fail: sharing.fail, patience: sharing.patience })
    }

    /// Brings away what was given back. Nobody takes anything any more.
    pub fn end(&self) {
        self.redis.end();
    }
}

/// What one request holds in Redis, or may hold: given back when it is dropped.
#[derive(Debug)]
pub(super) struct RedisReservation {
    pub(super) shared: Arc<Shared>,
    holder: u64,
    patience: Duration,
    given: Vec<Given>,
    /// The budgets of which something is set aside. What was spent of them is told when that is given back.
    budgets: Vec<(BudgetKey, Arc<Counter>)>,
    /// Redis could not be asked for something that it wanted.
    pub(super) alone: bool,
}

/// What came of a question.
pub(super) enum Asked {
    /// All is taken, and so the rates stand.
    Taken(Quotas),
    /// Something is not there, and nothing is taken.
    Exceeded(LimitExceeded, Quotas),
    /// Nobody knows.
    Away,
}

impl RedisReservation {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let (shared, given, budgets) = (Arc::clone(shared), Vec::new(), Vec::new());
        Self { holder: shared.redis.holder(), patience: shared.patience, given, budgets, alone: false, shared }
    }

    /// Asks for all claims or none.
    pub(super) async fn take(&mut self, subject: &Subject, scope: Scope, claims: &[Claim], now: Moment) -> Asked {
        let before = (self.given.len(), self.budgets.len());
        // Whatever becomes of the question: what was taken by it comes back.
        self.will_give(subject, claims);
        if !self.shared.redis.is_well() {
            return self.away();
        }
        if let Some(exceeded) = known(subject, claims, now) {
            return self.exceeded(before, exceeded, quotas(subject, scope, now));
        }
        let (items, rates) = question(subject, scope, claims);
        let began = Instant::now();
        let said = self.shared.redis.take(self.holder, items, self.patience).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        let Some(Answer { exceeded, states }) = said else { return self.away() };
        learn(subject, &rates, &states, now);
        let quotas = quotas(subject, scope, now);
        let Some((nth, wait)) = exceeded else { return Asked::Taken(quotas) };
        if let Some(Claim { share, of: Claimed::Rate { unit, .. } }) = claims.get(nth)
            && let Some(share) = subject.shares.get(*share)
        {
            share.meter.told_turn(*unit, now.after(wait));
        }
        self.exceeded(before, LimitExceeded { nth, wait }, quotas)
    }

    /// A rate comes back by itself.
    fn will_give(&mut self, subject: &Subject, claims: &[Claim]) {
        for claim in claims {
            let Some(share) = subject.shares.get(claim.share) else { continue };
            match &claim.of {
                Claimed::Place { .. } => self.given.push(Given::Place { key: place(share) }),
                Claimed::Rate { .. } => {}
                Claimed::Spend { counter, budget, span, .. } => {
                    self.budgets.push((share.budget_key(budget, *span), Arc::clone(counter)));
                }
            }
        }
    }

    /// Nothing was taken.
    fn exceeded(&mut self, (given, budgets): (usize, usize), exceeded: LimitExceeded, quotas: Quotas) -> Asked {
        self.given.truncate(given);
        self.budgets.truncate(budgets);
        Asked::Exceeded(exceeded, quotas)
    }

    /// It was let in without Redis, which is told when it is back.
    pub(super) fn taken_alone(&self, subject: &Subject, claims: &[Claim]) {
        self.shared.redis.hold(self.holder, claims.iter().filter_map(|claim| item(subject, claim)).collect());
    }

    /// Counted once a request.
    fn away(&mut self) -> Asked {
        if !std::mem::replace(&mut self.alone, true) {
            self.shared.redis.is_alone();
        }
        Asked::Away
    }

    /// A rate is corrected.
    pub(super) fn corrected(&mut self, share: &Share, unit: Unit, correction: Correction) {
        let (more, back) = match correction {
            Correction::More(span) => (span, 0),
            Correction::Back(span) => (0, span),
        };
        if (more, back) != (0, 0) {
            self.given.push(Given::Rate { key: rate(share, unit), more, back, since: Instant::now() });
        }
    }
}

impl Drop for RedisReservation {
    fn drop(&mut self) {
        let spent = |(key, counter): (BudgetKey, Arc<Counter>)| Given::Spend {
            budget: SharedBudget::new(&key, counter.own(), RemoteSpend::default()),
        };
        self.given.extend(self.budgets.drain(..).map(spent));
        if !self.given.is_empty() {
            self.shared.redis.give(self.holder, std::mem::take(&mut self.given));
        }
    }
}

/// Claims as Redis is asked for them, and for each whose rate it is. Rates that are not taken are looked at, for the headers.
fn question(subject: &Subject, scope: Scope, claims: &[Claim]) -> (Vec<redis::Item>, Vec<Option<(usize, Unit)>>) {
    let whose = |claim: &Claim| match &claim.of {
        Claimed::Rate { unit, .. } => Some((claim.share, *unit)),
        _ => None,
    };
    let mut rates: Vec<_> = claims.iter().map(whose).collect();
    let mut all: Vec<_> = claims.iter().filter_map(|claim| item(subject, claim)).collect();
    for (nth, share) in subject.within(scope) {
        for unit in Unit::ALL {
            if share.rate(unit).is_some() && !rates.contains(&Some((nth, unit))) {
                rates.push(Some((nth, unit)));
                all.push(redis::Item::Look { key: rate(share, unit) });
            }
        }
    }
    (all, rates)
}

fn item(subject: &Subject, claim: &Claim) -> Option<redis::Item> {
    let share = subject.shares.get(claim.share)?;
    Some(match &claim.of {
        Claimed::Place { limit } => redis::Item::Place { key: place(share), limit: *limit as u64 },
        Claimed::Rate { unit, rate: limit, cost } => {
            redis::Item::Rate { key: rate(share, *unit), span: limit.span(*cost) }
        }
        Claimed::Spend { counter, limit, cost, budget, span } => {
            let budget = SharedBudget::new(&share.budget_key(budget, *span), counter.own(), counter.others());
            redis::Item::Spend { budget, limit: *limit, cost: *cost }
        }
    })
}

/// What is known to be refused without asking. Requests of a minute come back by time alone, so that others can only have taken
/// more since Redis said how they stand. Redis is asked all the same while it has turns to give within a minute, which are no more
/// than the limit: a flood beyond that costs Redis nothing. And what is known to be spent of a budget is spent, whatever Redis
/// forgot.
fn known(subject: &Subject, claims: &[Claim], now: Moment) -> Option<LimitExceeded> {
    claims.iter().enumerate().find_map(|(nth, claim)| match &claim.of {
        Claimed::Rate { unit: Unit::Requests, rate, cost } => {
            let (free_at, last) = subject.shares.get(claim.share)?.meter.in_redis(Unit::Requests);
            let wait = rate.admit(free_at.0, now.0, *cost).err()?;
            let turn = rate.turn(last.0, now.0, wait, *cost);
            let exceeded = LimitExceeded { nth, wait: turn.saturating_sub(now.0) };
            rate.has_no_turn(last.0, now.0, *cost).then_some(exceeded)
        }
        Claimed::Spend { counter, limit, .. } => (counter.spent() >= *limit).then_some(LimitExceeded { nth, wait: 0 }),
        _ => None,
    })
}

/// Notes how the rates stand in Redis, as of `now`: before it was asked, so that none is taken to come back later than it does.
fn learn(subject: &Subject, rates: &[Option<(usize, Unit)>], states: &[u64], now: Moment) {
    for (whose, free_in) in rates.iter().zip(states) {
        if let Some((share, unit)) = whose
            && let Some(share) = subject.shares.get(*share)
        {
            share.meter.told(*unit, now.after(*free_in));
        }
    }
}

/// How the rates stand in Redis.
fn quotas(subject: &Subject, scope: Scope, now: Moment) -> Quotas {
    subject.least(scope, |share, unit| Some(Quota::of(share.rate(unit)?, share.meter.in_redis(unit).0, now)))
}

fn rate(share: &Share, unit: Unit) -> String {
    let what = match unit {
        Unit::Requests => "rpm",
        Unit::Tokens => "tpm",
    };
    redis::name(what, share.whose, &share.name, share.model.as_ref())
}

fn place(share: &Share) -> String {
    redis::name("at_once", share.whose, &share.name, share.model.as_ref())
}
