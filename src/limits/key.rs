//! A key with its limits, and what a request takes of them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    decision::{LimitKind, Limited, Moment, Quota, Quotas},
    gcra::Rate,
    meter::{Meter, Unit},
};
use crate::{
    budgets::{BudgetRefusal, Counter, Spending, Windows},
    domain::{
        clock::UnixMillis,
        model_name::ModelPattern,
        money::{Budget, Currency},
        spending::{BudgetKey, Span, Spender},
    },
};

/// All limits and budgets that can apply to requests of one key: its own, those of its group, and those for some models.
#[derive(Debug)]
pub(super) struct LimitsOfKey {
    /// At most [`MOST_SETS`].
    pub(super) sets: Vec<LimitSet>,
    /// The names of all upstreams: a client may ask for `upstream/model`.
    pub(super) upstreams: Arc<[Arc<str>]>,
    pub(super) spending: Arc<Spending>,
    pub(super) windows: Arc<Windows>,
}

/// One set of limits and budgets: of a key, of its group, or of a key for some models.
#[derive(Debug)]
pub(super) struct LimitSet {
    pub(super) whose: Spender,
    pub(super) name: Arc<str>,
    /// The models that the limits are for; none = all.
    pub(super) model: Option<ModelPattern>,
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    pub(super) in_flight: Option<usize>,
    pub(super) budgets: Vec<OneBudget>,
    pub(super) meter: Arc<Meter>,
}

/// Which sets of limits apply to a request: one bit for each set of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope(u64);

/// The most sets of limits that one key can have, which is the number of bits of a [`Scope`].
pub(super) const MOST_SETS: usize = 64;

impl Scope {
    /// All sets of limits of a key.
    pub(super) const ALL: Self = Self(u64::MAX);

    fn has(self, set: usize) -> bool {
        u32::try_from(set).ok().and_then(|set| self.0.checked_shr(set)).is_some_and(|bits| bits & 1 == 1)
    }
}

/// How a budget stands: the budget, its present window, and the spend in this window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Budget,
    /// Its spend in nano-units; none while the ledger was not read.
    pub spent: Option<u64>,
    /// Its window now.
    pub span: Span,
}

/// A budget of a key or group, with the counter of its present window.
#[derive(Debug)]
pub(super) struct OneBudget {
    pub(super) budget: Budget,
    /// Thresholds, in billionths of the budget.
    warn_at: Arc<[u64]>,
    last: Mutex<Last>,
}

/// The window of a budget that was used last.
#[derive(Debug, Default)]
struct Last {
    /// The moment of the first use: the process counts all requests from then on.
    since: Option<u64>,
    window: Option<(Span, Arc<Counter>)>,
}

/// What a request takes of one limit: a place, requests or tokens per minute, or money of a budget.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// An index of [`LimitsOfKey::sets`].
    pub(super) set: usize,
    pub(super) of: Claimed,
}

/// The kind and amount of what a request takes of a limit.
#[derive(Clone, Debug)]
pub(super) enum Claimed {
    /// A place among the requests in progress.
    Place { limit: usize },
    /// Requests or tokens per minute.
    Rate { unit: Unit, rate: Rate, cost: u64 },
    /// Money of a budget, in nano-units of its currency.
    Spend { counter: Arc<Counter>, limit: u64, cost: u64, budget: Budget, span: Span },
}

/// Says which claim of a request exceeds its limit, and how long the request has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitExceeded {
    /// Its index in the list.
    pub(super) nth: usize,
    /// Microseconds until the request may try again; 0 = not known.
    pub(super) wait: u64,
}

/// A reservation of another request may be given back at any moment: the client waits for this many microseconds.
const SOON: u64 = 1_000_000;

/// The estimated cost of a request in each currency of [`Currency::ALL`], in nano-units.
pub type Costs = [u64; Currency::ALL.len()];

impl LimitSet {
    /// The limit per minute on requests or tokens in this set of limits. None = unlimited.
    pub(super) fn rate(&self, unit: Unit) -> Option<Rate> {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }

    /// Returns the key that identifies a budget in one of its windows.
    pub(super) fn budget_key(&self, budget: &Budget, span: Span) -> BudgetKey {
        let Budget { money, window, starts_on: _ } = *budget;
        let model = self.model.as_ref().map(|model| ModelPattern(Arc::from(&*model.0)));
        let name: Arc<str> = Arc::from(&*self.name);
        BudgetKey { spender: self.whose, name, model, currency: money.currency, window, span }
    }
}

impl OneBudget {
    /// Makes a budget of a key or group with its warning thresholds. Its counter is looked up at the first use.
    pub(super) fn new(budget: Budget, warn_at: &Arc<[u64]>) -> Self {
        Self { budget, warn_at: Arc::clone(warn_at), last: Mutex::default() }
    }

    /// Returns the budget window that `now` is in, and the counter of its spend.
    pub(super) fn counter(&self, set: &LimitSet, limits: &LimitsOfKey, now: UnixMillis) -> (Span, Arc<Counter>) {
        let UnixMillis(now) = now;
        let span = limits.windows.at(self.budget.window, self.budget.starts_on, now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *last.since.get_or_insert(now);
        match &last.window {
            Some((known, counter)) if *known == span => (span, Arc::clone(counter)),
            _ => {
                let counter = limits.spending.counter(set.budget_key(&self.budget, span), since);
                counter.set_thresholds(self.budget.money.nano, &self.warn_at);
                last.window = Some((span, Arc::clone(&counter)));
                (span, counter)
            }
        }
    }
}

impl LimitsOfKey {
    /// Returns which sets of limits apply to a request for this model, as the client writes the name. None = the model is not known.
    pub(super) fn scope(&self, model: Option<&str>) -> Scope {
        let is_upstream = |name: &str| self.upstreams.iter().any(|upstream| **upstream == *name);
        let holds = |set: &LimitSet| match (&set.model, model) {
            (None, _) => true,
            (Some(pattern), Some(model)) => pattern.matches(model, is_upstream),
            (Some(_), None) => false,
        };
        let bits = self.each().take(MOST_SETS).filter(|(_, set)| holds(set));
        Scope(bits.fold(0, |bits, (nth, _)| bits | 1 << nth))
    }

    /// Whether a budget applies to requests in this scope.
    pub(super) fn has_budgets(&self, scope: Scope) -> bool {
        self.within(scope).any(|(_, set)| !set.budgets.is_empty())
    }

    /// What every request of this key takes of its limits before the body is read: a place and one request per minute.
    pub(super) fn admission_claims(&self) -> Vec<Claim> {
        self.claims_of(|set| set.model.is_none())
    }

    /// What a request takes of its limits and budgets once its body is read, with its estimated tokens and cost.
    pub(super) fn token_claims(&self, scope: Scope, tokens: u64, costs: &Costs, now: UnixMillis) -> Vec<Claim> {
        let mut claims = self.claims_of(|set| set.model.is_some());
        claims.retain(|claim| scope.has(claim.set));
        let rate = |(set, of): (usize, &LimitSet)| {
            Some(Claim { set, of: Claimed::Rate { unit: Unit::Tokens, rate: of.tokens?, cost: tokens } })
        };
        claims.extend(self.within(scope).filter_map(rate));
        for (set, of) in self.within(scope) {
            for one in &of.budgets {
                let (span, counter) = one.counter(of, self, now);
                let (limit, cost) = (one.budget.money.nano, in_currency(costs, one.budget.money.currency));
                claims.push(Claim { set, of: Claimed::Spend { counter, limit, cost, budget: one.budget, span } });
            }
        }
        claims
    }

    /// Claims of these sets of limits for a place and for one request per minute.
    fn claims_of(&self, of_these: impl Fn(&LimitSet) -> bool) -> Vec<Claim> {
        let places = self.each().filter_map(|(set, of)| Some((set, Claimed::Place { limit: of.in_flight? })));
        let rate = |(set, of): (usize, &LimitSet)| {
            Some((set, Claimed::Rate { unit: Unit::Requests, rate: of.requests?, cost: 1 }))
        };
        let claims = places.chain(self.each().filter_map(rate));
        let is_of_these = |set: usize| self.sets.get(set).is_some_and(&of_these);
        claims.filter(|(set, _)| is_of_these(*set)).map(|(set, of)| Claim { set, of }).collect()
    }

    /// Takes all claims of a request from the limits of its key, or none, without Redis. Of each limit only the part of one of
    /// `replicas` may be used, because the replicas cannot ask each other.
    pub(super) fn take(&self, claims: &[Claim], now: Moment, replicas: u32) -> Result<(), LimitExceeded> {
        for (nth, claim) in claims.iter().enumerate() {
            let Some(LimitSet { meter, .. }) = self.sets.get(claim.set) else { continue };
            let taken = match &claim.of {
                Claimed::Place { limit } => meter.enter((limit / replicas.max(1) as usize).max(1)),
                Claimed::Rate { unit, rate, cost } => meter.of(*unit).admit(rate.share(replicas), now, *cost),
                Claimed::Spend { counter, limit, cost, .. } => counter
                    .reserve(*limit, *cost, replicas)
                    .map_err(|refused| if refused == BudgetRefusal::Reserved { SOON } else { 0 }),
            };
            if let Err(wait) = taken {
                claims.iter().take(nth).for_each(|claim| self.give_back(claim, now, replicas));
                return Err(LimitExceeded { nth, wait });
            }
        }
        Ok(())
    }

    /// Counts claims of a request that Redis granted: they are a part of what this replica may use if Redis becomes unavailable.
    pub(super) fn count(&self, claims: &[Claim], now: Moment, replicas: u32) {
        for claim in claims {
            let Some(LimitSet { meter, .. }) = self.sets.get(claim.set) else { continue };
            match &claim.of {
                Claimed::Place { .. } => meter.enter_anyway(),
                Claimed::Rate { unit, rate, cost } => meter.of(*unit).count(rate.share(replicas).span(*cost), now),
                Claimed::Spend { counter, cost, .. } => counter.reserve_anyway(*cost),
            }
        }
    }

    fn give_back(&self, claim: &Claim, now: Moment, replicas: u32) {
        let Some(LimitSet { meter, .. }) = self.sets.get(claim.set) else { return };
        match &claim.of {
            Claimed::Place { .. } => meter.leave(),
            Claimed::Rate { unit, rate, cost } => meter.of(*unit).settle(rate.share(replicas), now, now, *cost, 0),
            Claimed::Spend { counter, cost, .. } => counter.release(*cost),
        }
    }

    fn each(&self) -> impl Iterator<Item = (usize, &LimitSet)> {
        self.sets.iter().enumerate()
    }

    /// Iterates over the sets of limits that apply to a request.
    pub(super) fn within(&self, scope: Scope) -> impl Iterator<Item = (usize, &LimitSet)> {
        self.each().filter(move |(nth, _)| scope.has(*nth))
    }

    /// How the budgets of a key or group stand in the windows of `now`.
    pub(super) fn states(&self, set: &LimitSet, now: UnixMillis) -> impl Iterator<Item = BudgetState> {
        set.budgets.iter().map(move |one| {
            let (span, counter) = one.counter(set, self, now);
            BudgetState { budget: one.budget, spent: counter.is_read().then(|| counter.spent()), span }
        })
    }

    /// Makes the refusal of a request from the claim that exceeds its limit.
    pub(super) fn limited(&self, claims: &[Claim], exceeded: LimitExceeded, quotas: Quotas) -> Option<Limited> {
        let LimitExceeded { nth, wait } = exceeded;
        let claim = claims.get(nth)?;
        let set = self.sets.get(claim.set)?;
        let (whose, name, after) = (set.whose, Arc::clone(&set.name), Duration::from_micros(wait));
        let kind = match &claim.of {
            Claimed::Place { limit } => LimitKind::InFlight(*limit),
            Claimed::Rate { unit: Unit::Requests, rate, .. } => LimitKind::Requests(rate.limit()),
            Claimed::Rate { unit: Unit::Tokens, rate, .. } => LimitKind::Tokens(rate.limit()),
            Claimed::Spend { counter, budget, span, limit, .. } if wait == 0 => {
                // Redis may know a spend of others that the ledger did not show yet.
                LimitKind::Budget { budget: *budget, span: *span, spent: counter.spent().max(*limit) }
            }
            Claimed::Spend { budget, .. } => LimitKind::Reserved(*budget),
        };
        let model = set.model.as_ref().map(|model| Arc::clone(&model.0));
        Some(Limited { kind, whose, name, model, after, quotas })
    }

    /// How much is left of the limits per minute that apply to a request, counted in memory for the part of one of `replicas`.
    pub(super) fn quotas(&self, scope: Scope, now: Moment, replicas: u32) -> Quotas {
        self.least(scope, |set, unit| {
            Some(Quota::of(set.rate(unit)?.share(replicas), set.meter.of(unit).free_at(), now))
        })
    }

    /// Returns the limits per minute with the least left, of all sets of limits that apply to a request.
    pub(super) fn least(&self, scope: Scope, quota: impl Fn(&LimitSet, Unit) -> Option<Quota>) -> Quotas {
        let least = |unit| {
            let quotas = self.within(scope).filter_map(|(_, set)| quota(set, unit));
            quotas.min_by_key(|quota| quota.remaining)
        };
        Quotas { requests: least(Unit::Requests), tokens: least(Unit::Tokens) }
    }
}

/// Returns the estimated cost of a request in this currency, in nano-units.
pub(super) fn in_currency(costs: &Costs, currency: Currency) -> u64 {
    Currency::ALL.iter().zip(costs).find(|(known, _)| **known == currency).map_or(0, |(_, cost)| *cost)
}
