//! Whoever is limited, and what a request takes of the limits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Limited, Moment, Quota, Quotas,
    gcra::Rate,
    memory::{LimitExceeded, Meter},
};
use crate::{
    budgets::{Counter, Spending, Windows},
    domain::{
        clock::UnixMillis,
        model_name::ModelPattern,
        money::{Budget, Currency},
        spending::{BudgetKey, Span, Spender},
    },
};

/// A key, perhaps its group, and what of the key's limits is for some models only.
#[derive(Debug)]
pub(super) struct Subject {
    /// At most [`MOST_SHARES`].
    pub(super) shares: Vec<Share>,
    /// The names of all upstreams, by which a model may be asked for as `upstream/model`.
    pub(super) upstreams: Arc<[Arc<str>]>,
    pub(super) spending: Arc<Spending>,
    pub(super) windows: Arc<Windows>,
}

#[derive(Debug)]
pub(super) struct Share {
    pub(super) whose: Spender,
    pub(super) name: Arc<str>,
    /// The models that it is for; none = all requests.
    pub(super) model: Option<ModelPattern>,
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    pub(super) in_flight: Option<usize>,
    pub(super) budgets: Vec<OneBudget>,
    pub(super) meter: Arc<Meter>,
}

/// The shares that hold for a request, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope(u64);

/// As many as a [`Scope`] has bits.
pub(super) const MOST_SHARES: usize = 64;

impl Scope {
    pub(super) const ALL: Self = Self(u64::MAX);

    fn has(self, share: usize) -> bool {
        u32::try_from(share).ok().and_then(|share| self.0.checked_shr(share)).is_some_and(|bits| bits & 1 == 1)
    }
}

/// A budget with the counter of its window.
#[derive(Debug)]
pub(super) struct OneBudget {
    pub(super) budget: Budget,
    /// In billionths of it.
    warn_at: Arc<[u64]>,
    last: Mutex<Last>,
}

/// What a budget was asked for last.
#[derive(Debug, Default)]
struct Last {
    /// The first moment that it was asked for: from then on all requests are counted by it.
    since: Option<u64>,
    window: Option<(Span, Arc<Counter>)>,
}

/// One thing that a request takes.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Whose: a place in [`Subject::shares`].
    pub(super) share: usize,
    pub(super) of: Claimed,
}

#[derive(Clone, Debug)]
pub(super) enum Claimed {
    /// A place among the requests at once.
    Place { limit: usize },
    /// Requests or tokens of a minute.
    Rate { unit: Unit, rate: Rate, cost: u64 },
    /// Money of a budget, in nano-units of its currency.
    Spend { counter: Arc<Counter>, limit: u64, cost: u64, budget: Budget, span: Span },
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Requests,
    Tokens,
}

impl Unit {
    pub(super) const ALL: [Self; 2] = [Self::Requests, Self::Tokens];
}

/// What a request may cost at most, by [`Currency::ALL`].
pub type Costs = [u64; Currency::ALL.len()];

impl Share {
    /// Its rate of requests or of tokens.
    pub(super) fn rate(&self, unit: Unit) -> Option<Rate> {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }

    /// One of its budgets in one of its windows.
    pub(super) fn budget_key(&self, budget: &Budget, span: Span) -> BudgetKey {
        let Budget { money, window, starts_on: _ } = *budget;
        let model = self.model.as_ref().map(|model| ModelPattern(Arc::from(&*model.0)));
        let name: Arc<str> = Arc::from(&*self.name);
        BudgetKey { spender: self.whose, name, model, currency: money.currency, window, span }
    }
}

impl OneBudget {
    pub(super) fn new(budget: Budget, warn_at: &Arc<[u64]>) -> Self {
        Self { budget, warn_at: Arc::clone(warn_at), last: Mutex::default() }
    }

    /// The counter of the window that `now` is in.
    pub(super) fn counter(&self, share: &Share, subject: &Subject, now: UnixMillis) -> (Span, Arc<Counter>) {
        let UnixMillis(now) = now;
        let span = subject.windows.at(self.budget.window, self.budget.starts_on, now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *last.since.get_or_insert(now);
        match &last.window {
            Some((known, counter)) if *known == span => (span, Arc::clone(counter)),
            _ => {
                let counter = subject.spending.counter(share.budget_key(&self.budget, span), since);
                counter.watch(self.budget.money.nano, &self.warn_at);
                last.window = Some((span, Arc::clone(&counter)));
                (span, counter)
            }
        }
    }
}

impl Subject {
    /// The shares that hold for a request of this model as the client asked for it; none = it is not known, or there is none.
    pub(super) fn scope(&self, model: Option<&str>) -> Scope {
        let is_upstream = |name: &str| self.upstreams.iter().any(|upstream| **upstream == *name);
        let holds = |share: &Share| match (&share.model, model) {
            (None, _) => true,
            (Some(pattern), Some(model)) => pattern.matches(model, is_upstream),
            (Some(_), None) => false,
        };
        let bits = self.each().take(MOST_SHARES).filter(|(_, share)| holds(share));
        Scope(bits.fold(0, |bits, (nth, _)| bits | 1 << nth))
    }

    /// Whether a request is held against a budget.
    pub(super) fn has_budgets(&self, scope: Scope) -> bool {
        self.within(scope).any(|(_, share)| !share.budgets.is_empty())
    }

    /// What every request takes before its body is read.
    pub(super) fn admission_claims(&self) -> Vec<Claim> {
        self.claims_of(|share| share.model.is_none())
    }

    /// What one takes that will probably use so many tokens and cost so much.
    pub(super) fn token_claims(&self, scope: Scope, tokens: u64, costs: &Costs, now: UnixMillis) -> Vec<Claim> {
        let mut claims = self.claims_of(|share| share.model.is_some());
        claims.retain(|claim| scope.has(claim.share));
        let rate = |(share, of): (usize, &Share)| {
            Some(Claim { share, of: Claimed::Rate { unit: Unit::Tokens, rate: of.tokens?, cost: tokens } })
        };
        claims.extend(self.within(scope).filter_map(rate));
        for (share, of) in self.within(scope) {
            for one in &of.budgets {
                let (span, counter) = one.counter(of, self, now);
                let (limit, cost) = (one.budget.money.nano, in_currency(costs, one.budget.money.currency));
                claims.push(Claim { share, of: Claimed::Spend { counter, limit, cost, budget: one.budget, span } });
            }
        }
        claims
    }

    /// Places and requests of a minute of these shares.
    fn claims_of(&self, of_these: impl Fn(&Share) -> bool) -> Vec<Claim> {
        let places = self.each().filter_map(|(share, of)| Some((share, Claimed::Place { limit: of.in_flight? })));
        let rate = |(share, of): (usize, &Share)| {
            Some((share, Claimed::Rate { unit: Unit::Requests, rate: of.requests?, cost: 1 }))
        };
        let claims = places.chain(self.each().filter_map(rate));
        let is_of_these = |share: usize| self.shares.get(share).is_some_and(&of_these);
        claims.filter(|(share, _)| is_of_these(*share)).map(|(share, of)| Claim { share, of }).collect()
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Share)> {
        self.shares.iter().enumerate()
    }

    /// The shares that hold.
    pub(super) fn within(&self, scope: Scope) -> impl Iterator<Item = (usize, &Share)> {
        self.each().filter(move |(nth, _)| scope.has(*nth))
    }

    /// The limit that the claim at this place exceeds.
    pub(super) fn limited(&self, claims: &[Claim], exceeded: LimitExceeded, quotas: Quotas) -> Option<Limited> {
        let LimitExceeded { nth, wait } = exceeded;
        let claim = claims.get(nth)?;
        let share = self.shares.get(claim.share)?;
        let (whose, name, after) = (share.whose, Arc::clone(&share.name), Duration::from_micros(wait));
        let kind = match &claim.of {
            Claimed::Place { limit } => super::Kind::InFlight(*limit),
            Claimed::Rate { unit: Unit::Requests, rate, .. } => super::Kind::Requests(rate.limit()),
            Claimed::Rate { unit: Unit::Tokens, rate, .. } => super::Kind::Tokens(rate.limit()),
            Claimed::Spend { counter, budget, span, limit, .. } if wait == 0 => {
                // Redis may know of spending by others that the ledger did not show here yet.
                super::Kind::Budget { budget: *budget, span: *span, spent: counter.spent().max(*limit) }
            }
            Claimed::Spend { budget, .. } => super::Kind::Reserved(*budget),
        };
        let model = share.model.as_ref().map(|model| Arc::clone(&model.0));
        Some(Limited { kind, whose, name, model, after, quotas })
    }

    /// How the rates stand in memory, or the part of one of `replicas`.
    pub(super) fn quotas(&self, scope: Scope, now: Moment, replicas: u32) -> Quotas {
        self.least(scope, |share, unit| {
            Some(Quota::of(share.rate(unit)?.share(replicas), share.meter.used_until(unit), now))
        })
    }

    /// Of each rate, where key and group both have one, the one of which less is left.
    pub(super) fn least(&self, scope: Scope, quota: impl Fn(&Share, Unit) -> Option<Quota>) -> Quotas {
        let least = |unit| {
            let quotas = self.within(scope).filter_map(|(_, share)| quota(share, unit));
            quotas.min_by_key(|quota| quota.remaining)
        };
        Quotas { requests: least(Unit::Requests), tokens: least(Unit::Tokens) }
    }
}

pub(super) fn in_currency(costs: &Costs, currency: Currency) -> u64 {
    Currency::ALL.iter().zip(costs).find(|(known, _)| **known == currency).map_or(0, |(_, cost)| *cost)
}
