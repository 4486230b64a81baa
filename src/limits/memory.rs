//! Limits in the memory of this process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{
    Moment,
    gcra::{MINUTE, Rate},
    subject::{Claim, Claimed, Share, Unit},
};
use crate::budgets::Short;

/// What is used of a key's or group's limits. One for all workers.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: RateMeter,
    tokens: RateMeter,
    in_flight: AtomicUsize,
}

/// One rate. All are a [`Moment`]'s microseconds.
#[derive(Debug, Default)]
struct RateMeter {
    /// When nothing is used any more of the part of this process.
    here: AtomicU64,
    /// The same of what all replicas together admitted, as Redis said last.
    in_redis: AtomicU64,
    /// When the request shall come back that was refused last by this process.
    turn_here: AtomicU64,
    /// The same of Redis.
    turn_in_redis: AtomicU64,
}

/// One of the claims is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitExceeded {
    /// Its place in the list.
    pub(super) nth: usize,
    /// Microseconds until it is worth trying again, as far as one can tell.
    pub(super) wait: u64,
}

/// What of a budget is set aside comes back at some time: when, nobody knows. Worth asking again after so many microseconds.
const SOON: u64 = 1_000_000;

/// Takes all claims or none: of each limit the part of one of `replicas` that share it and cannot ask each other.
pub(super) fn take(shares: &[Share], claims: &[Claim], now: Moment, replicas: u32) -> Result<(), LimitExceeded> {
    for (nth, claim) in claims.iter().enumerate() {
        let Some(share) = shares.get(claim.share) else { continue };
        let taken = match &claim.of {
            Claimed::Place { limit } => share.meter.enter((limit / replicas.max(1) as usize).max(1)),
            Claimed::Rate { unit, rate, cost } => share.meter.of(*unit).admit(rate.share(replicas), now, *cost),
            Claimed::Spend { counter, limit, cost, .. } => {
                let taken = counter.reserve(*limit, *cost, replicas);
                taken.map_err(|short| if short == Short::Reserved { SOON } else { 0 })
            }
        };
        if let Err(wait) = taken {
            for claim in claims.iter().take(nth) {
                give_back(shares, claim, now, replicas);
            }
            return Err(LimitExceeded { nth, wait });
        }
    }
    Ok(())
}

/// Counts what was taken in Redis, so that this one of `replicas` knows how much of its part that was, should Redis be away.
pub(super) fn count(shares: &[Share], claims: &[Claim], now: Moment, replicas: u32) {
    for claim in claims {
        let Some(share) = shares.get(claim.share) else { continue };
        match &claim.of {
            Claimed::Place { .. } => {
                share.meter.in_flight.fetch_add(1, Ordering::AcqRel);
            }
            Claimed::Rate { unit, rate, cost } => share.meter.of(*unit).count(rate.share(replicas).span(*cost), now),
            Claimed::Spend { counter, cost, .. } => counter.hold(*cost),
        }
    }
}

fn give_back(shares: &[Share], claim: &Claim, now: Moment, replicas: u32) {
    let Some(share) = shares.get(claim.share) else { return };
    match &claim.of {
        Claimed::Place { .. } => share.meter.leave(),
        Claimed::Rate { unit, rate, cost } => share.meter.settle(*unit, rate.share(replicas), now, now, *cost, 0),
        Claimed::Spend { counter, cost, .. } => counter.release(*cost),
    }
}

impl Meter {
    fn enter(&self, limit: usize) -> Result<(), u64> {
        let may = |count: usize| (count < limit).then_some(count + 1);
        let entered = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, may).is_ok();
        // When one of those ends, nobody knows.
        if entered { Ok(()) } else { Err(0) }
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    fn of(&self, unit: Unit) -> &RateMeter {
        match unit {
            Unit::Requests => &self.requests,
            Unit::Tokens => &self.tokens,
        }
    }

    /// Corrects a rate to what was used.
    pub(super) fn settle(&self, unit: Unit, rate: Rate, now: Moment, since: Moment, reserved: u64, used: u64) {
        let next = |free_at| Some(rate.settle(free_at, now.0, since.0, reserved, used));
        // Never refused.
        let _ = self.of(unit).here.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// When nothing is used any more, as far as this process knows.
    pub(super) fn used_until(&self, unit: Unit) -> Moment {
        let rate = self.of(unit);
        Moment(rate.here.load(Ordering::Acquire).max(rate.in_redis.load(Ordering::Acquire)))
    }

    /// The same, and the turn of the request that was refused last, as Redis said.
    pub(super) fn in_redis(&self, unit: Unit) -> (Moment, Moment) {
        let rate = self.of(unit);
        (Moment(rate.in_redis.load(Ordering::Acquire)), Moment(rate.turn_in_redis.load(Ordering::Acquire)))
    }

    /// Redis refused a request, whose turn is at this moment.
    pub(super) fn told_turn(&self, unit: Unit, turn: Moment) {
        self.of(unit).turn_in_redis.store(turn.0, Ordering::Release);
    }

    /// Redis says that nothing of a rate is used any more at this moment.
    pub(super) fn told(&self, unit: Unit, free_at: Moment) {
        let in_redis = &self.of(unit).in_redis;
        match unit {
            Unit::Tokens => in_redis.store(free_at.0, Ordering::Release),
            // Of requests nothing is ever given back: what was said later and came sooner is not forgotten.
            Unit::Requests => {
                in_redis.fetch_max(free_at.0, Ordering::AcqRel);
            }
        }
    }
}

impl RateMeter {
    /// Uses so many microseconds of the part of this process, a minute at most: what it had from Redis beyond its part does not bar it
    /// for longer.
    fn count(&self, span: u64, now: Moment) {
        let next = |free_at: u64| {
            let used = free_at.saturating_sub(now.0);
            Some(now.0.saturating_add(used.max(used.saturating_add(span).min(MINUTE))))
        };
        // Never refused.
        let _ = self.here.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Admits a request, or says for how many microseconds it waits: until its own turn. What Redis said last is used already, so that
    /// the parts of all replicas are parts of what was left then.
    fn admit(&self, rate: Rate, now: Moment, cost: u64) -> Result<(), u64> {
        let (in_redis, mut wait) = (self.in_redis.load(Ordering::Acquire), 0);
        let next =
            |free_at: u64| rate.admit(free_at.max(in_redis), now.0, cost).inspect_err(|after| wait = *after).ok();
        if self.here.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok() {
            return Ok(());
        }
        let next = |last| Some(rate.turn(last, now.0, wait, cost));
        // Never refused.
        let last = self.turn_here.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
        Err(rate.turn(last, now.0, wait, cost).saturating_sub(now.0))
    }
}
