//! Limits and budgets that replicas share: a request asks Redis for everything that it takes.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    decision::{Moment, Quota, Quotas},
    gcra::Correction,
    key::{Claim, Claimed, LimitExceeded, LimitSet, LimitsOfKey, Scope},
    meter::Unit,
};
use crate::{
    budgets::{Counter, Spending},
    concurrent::sharing_status::SharingStatus,
    config::{SharedLimits, WhenRedisIsAway},
    domain::{
        clock::Clock,
        spending::{OwnSpend, RemoteSpend},
    },
    store::redis::{self, LimitItem, Redis, Replica, SharedBudget, SpendSource, TakeResult},
};

/// The connection to the Redis in which replicas count the limits and budgets that they share.
#[derive(Debug)]
pub struct LimitsInRedis {
    redis: Redis,
    pub(super) replicas: u32,
    pub(super) fail: WhenRedisIsAway,
}

/// The identity of this process among the replicas that share limits in a Redis.
#[derive(Debug)]
pub struct Identity {
    /// A random number of the process.
    pub process: [u8; 8],
    /// The name of its data folder, under which the ledger has its rows.
    pub origin: Arc<str>,
    /// The time in Redis, for tests; none = the clock of its server.
    pub redis_clock: Option<Clock>,
}

impl LimitsInRedis {
    /// Starts the thread that asks Redis about shared limits, and waits a moment for Redis. Redis is told the spend of the
    /// budgets in `spending`.
    ///
    /// # Errors
    /// When the thread cannot start. A Redis that is away is no error.
    pub fn start(
        sharing: &SharedLimits,
        identity: Identity,
        spending: Arc<Spending>,
        status: Arc<SharingStatus>,
    ) -> io::Result<Self> {
        let Identity { process, origin, redis_clock: clock } = identity;
        let spent = move || {
            let all = spending.all().into_iter().filter(|(_, counter)| counter.spent() > 0);
            all.map(|(key, counter)| SharedBudget::new(&key, counter)).collect()
        };
        let redis = Redis::start(sharing, Replica { process, origin, spent: Box::new(spent), clock }, status)?;
        Ok(Self { redis, replicas: sharing.replicas, fail: sharing.fail })
    }

    /// Gives back to Redis what ended requests held of shared limits, and ends the thread. No request may ask Redis after this call.
    pub fn end(&self) {
        self.redis.stop();
    }
}

impl SpendSource for Counter {
    fn own(&self) -> OwnSpend {
        self.own()
    }

    fn others(&self) -> RemoteSpend {
        self.others()
    }
}

/// What one request holds of the shared limits in Redis, or may hold. The drop gives it back to Redis.
#[derive(Debug)]
pub(super) struct RedisReservation {
    pub(super) shared: Arc<LimitsInRedis>,
    /// The number of the request, once it told Redis anything.
    request: Option<u64>,
    /// How much longer the request waits for Redis.
    patience: Duration,
    /// Corrections of rates.
    corrections: Vec<LimitItem>,
    /// Whether the request had to be decided without Redis.
    pub(super) alone: bool,
}

/// How Redis decides about a request that takes from shared limits: granted, exceeded, or Redis is unavailable.
pub(super) enum RedisDecision {
    /// Redis granted all claims. Contains what is left of the limits per minute.
    Granted(Quotas),
    /// A claim exceeds its limit. Nothing is taken.
    Exceeded(LimitExceeded, Quotas),
    /// Redis is away.
    Away,
}

impl RedisReservation {
    /// Makes an empty reservation of shared limits for one request. Redis is not asked yet.
    pub(super) fn new(shared: &Arc<LimitsInRedis>) -> Self {
        let (shared, patience) = (Arc::clone(shared), shared.redis.patience());
        Self { shared, request: None, patience, corrections: Vec::new(), alone: false }
    }

    /// Asks Redis to grant all claims of a request on shared limits, or none.
    pub(super) async fn take(
        &mut self,
        limits: &LimitsOfKey,
        scope: Scope,
        claims: &[Claim],
        now: Moment,
    ) -> RedisDecision {
        if !self.shared.redis.is_well() {
            return self.away();
        }
        if let Some(exceeded) = known(limits, claims, now) {
            return RedisDecision::Exceeded(exceeded, quotas(limits, scope, now));
        }
        let (items, rates) = question(limits, scope, claims);
        let (request, began) = (self.request_number(), Instant::now());
        let answer = self.shared.redis.take(request, items, self.patience).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        let Some(TakeResult { exceeded, states }) = answer else { return self.away() };
        // As of the moment before Redis was asked: no rate is expected to be free later than it is.
        for (rate, free_in) in rates.iter().zip(&states) {
            if let Some((set, unit)) = rate
                && let Some(set) = limits.sets.get(*set)
            {
                set.meter.of(*unit).set_in_redis(*unit, now.after(*free_in));
            }
        }
        let quotas = quotas(limits, scope, now);
        let Some((nth, wait)) = exceeded else { return RedisDecision::Granted(quotas) };
        if let Some(Claim { set, of: Claimed::Rate { unit, .. } }) = claims.get(nth)
            && let Some(set) = limits.sets.get(*set)
        {
            set.meter.of(*unit).set_turn_in_redis(now.after(wait));
        }
        RedisDecision::Exceeded(LimitExceeded { nth, wait }, quotas)
    }

    fn request_number(&mut self) -> u64 {
        *self.request.get_or_insert_with(|| self.shared.redis.next_request_number())
    }

    /// Records the claims of a request that this process admitted without Redis. Redis is told when it works again.
    pub(super) fn admitted_alone(&mut self, limits: &LimitsOfKey, claims: &[Claim]) {
        let items = claims.iter().filter_map(|claim| item(limits, claim)).collect();
        let request = self.request_number();
        self.shared.redis.record_reservations(request, items);
    }

    /// Counts the request once.
    fn away(&mut self) -> RedisDecision {
        if !std::mem::replace(&mut self.alone, true) {
            self.shared.redis.count_decided_alone();
        }
        RedisDecision::Away
    }

    /// Corrects in Redis what a request used of a limit per minute. Redis is told when the request ends.
    pub(super) fn correct(&mut self, set: &LimitSet, unit: Unit, correction: Correction) {
        let (more, back) = match correction {
            Correction::More(span) => (span, 0),
            Correction::Back(span) => (0, span),
        };
        if (more, back) != (0, 0) {
            self.corrections.push(LimitItem::Correct { key: rate_name(set, unit), more, back, since: Instant::now() });
        }
    }
}

impl Drop for RedisReservation {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.shared.redis.end(request, std::mem::take(&mut self.corrections));
        }
    }
}

/// A rate of the [`LimitSet`] with this index.
type RateOfSet = (usize, Unit);

/// The claims as Redis reads them, and for each item its rate. Redis also reads the other rates of the request, for the headers.
fn question(limits: &LimitsOfKey, scope: Scope, claims: &[Claim]) -> (Vec<LimitItem>, Vec<Option<RateOfSet>>) {
    let rate = |claim: &Claim| match &claim.of {
        Claimed::Rate { unit, .. } => Some((claim.set, *unit)),
        _ => None,
    };
    let mut rates: Vec<_> = claims.iter().map(rate).collect();
    let mut all: Vec<_> = claims.iter().filter_map(|claim| item(limits, claim)).collect();
    for (nth, set) in limits.within(scope) {
        for unit in Unit::ALL {
            if set.rate(unit).is_some() && !rates.contains(&Some((nth, unit))) {
                rates.push(Some((nth, unit)));
                all.push(LimitItem::Look { key: rate_name(set, unit) });
            }
        }
    }
    (all, rates)
}

fn item(limits: &LimitsOfKey, claim: &Claim) -> Option<LimitItem> {
    let set = limits.sets.get(claim.set)?;
    Some(match &claim.of {
        Claimed::Place { limit } => {
            let key = redis::name("at_once", set.whose, &set.name, set.model.as_ref());
            LimitItem::Place { key, limit: *limit as u64 }
        }
        Claimed::Rate { unit, rate, cost } => LimitItem::Rate { key: rate_name(set, *unit), span: rate.span(*cost) },
        Claimed::Spend { counter, limit, cost, budget, span } => {
            let budget = SharedBudget::new(&set.budget_key(budget, *span), Arc::<Counter>::clone(counter));
            LimitItem::Spend { budget, limit: *limit, cost: *cost }
        }
    })
}

fn rate_name(set: &LimitSet, unit: Unit) -> String {
    let limit = match unit {
        Unit::Requests => "rpm",
        Unit::Tokens => "tpm",
    };
    redis::name(limit, set.whose, &set.name, set.model.as_ref())
}

/// The claim that certainly exceeds its limit, so that Redis need not be asked.
///
/// A budget that is spent stays spent, whatever Redis has lost. Requests of a minute are never given back: since Redis told how they stand,
/// others can only have used more. Redis is asked all the same while it has turns within a minute, which are no more than the limit. A
/// flood beyond that costs Redis nothing.
fn known(limits: &LimitsOfKey, claims: &[Claim], now: Moment) -> Option<LimitExceeded> {
    claims.iter().enumerate().find_map(|(nth, claim)| match &claim.of {
        Claimed::Rate { unit: Unit::Requests, rate, cost } => {
            let (free_at, last) = limits.sets.get(claim.set)?.meter.of(Unit::Requests).in_redis();
            let wait = rate.admit(free_at.0, now.0, *cost).err()?;
            let turn = rate.turn(last.0, now.0, wait, *cost);
            let exceeded = LimitExceeded { nth, wait: turn.saturating_sub(now.0) };
            rate.has_no_turn(last.0, now.0, *cost).then_some(exceeded)
        }
        Claimed::Spend { counter, limit, .. } => (counter.spent() >= *limit).then_some(LimitExceeded { nth, wait: 0 }),
        _ => None,
    })
}

/// How the rates stand in Redis.
fn quotas(limits: &LimitsOfKey, scope: Scope, now: Moment) -> Quotas {
    limits.least(scope, |set, unit| Some(Quota::of(set.rate(unit)?, set.meter.of(unit).in_redis().0, now)))
}
