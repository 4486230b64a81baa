//! What is used of limits, in the memory of this process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{
    decision::Moment,
    gcra::{MINUTE, Rate},
};

/// What a limit per minute counts: requests or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Requests,
    Tokens,
}

impl Unit {
    /// Everything that a limit per minute can count: requests and tokens.
    pub(super) const ALL: [Self; 2] = [Self::Requests, Self::Tokens];
}

/// What a key or group has used of its limits: requests and tokens per minute, and requests in progress. All workers share it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: RateMeter,
    tokens: RateMeter,
    in_flight: AtomicUsize,
}

/// The use of one limit per minute, as the [`Moment`] at which the whole limit is free again.
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    /// When all that this process used is free again.
    here: AtomicU64,
    /// When all that the replicas used together is free again, as Redis told last.
    in_redis: AtomicU64,
    /// When the request that this process refused last may come again.
    turn_here: AtomicU64,
    /// When the request that Redis refused last may come again.
    turn_in_redis: AtomicU64,
}

impl Meter {
    /// Takes a place among the requests in progress, if fewer than `limit` are taken.
    pub(super) fn enter(&self, limit: usize) -> Result<(), u64> {
        let may = |count: usize| (count < limit).then_some(count + 1);
        let entered = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, may).is_ok();
        // Nobody knows when a request in progress will end.
        if entered { Ok(()) } else { Err(0) }
    }

    /// Takes a place among the requests in progress even if none is free, because Redis granted it.
    pub(super) fn enter_anyway(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives a place among the requests in progress back.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// The use of the limit per minute on requests or on tokens.
    pub(super) fn of(&self, unit: Unit) -> &RateMeter {
        match unit {
            Unit::Requests => &self.requests,
            Unit::Tokens => &self.tokens,
        }
    }
}

impl RateMeter {
    /// Corrects the reservation of a request in a limit per minute to its real use.
    pub(super) fn settle(&self, rate: Rate, now: Moment, since: Moment, reserved: u64, used: u64) {
        let next = |free_at| rate.settle(free_at, now.0, since.0, reserved, used);
        self.here.update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// When the whole limit per minute is free again, as far as this process knows.
    pub(super) fn free_at(&self) -> Moment {
        Moment(self.here.load(Ordering::Acquire)).max(self.in_redis().0)
    }

    /// What Redis told last about a limit per minute: when the whole limit is free again, and the turn of the request refused last.
    pub(super) fn in_redis(&self) -> (Moment, Moment) {
        (Moment(self.in_redis.load(Ordering::Acquire)), Moment(self.turn_in_redis.load(Ordering::Acquire)))
    }

    /// Records the turn of the request that Redis refused last: when that request may come again.
    pub(super) fn set_turn_in_redis(&self, turn: Moment) {
        self.turn_in_redis.store(turn.0, Ordering::Release);
    }

    /// Records when the whole limit per minute is free again, as Redis told.
    pub(super) fn set_in_redis(&self, unit: Unit, free_at: Moment) {
        match unit {
            Unit::Tokens => self.in_redis.store(free_at.0, Ordering::Release),
            // Requests of a minute are never given back: an older answer may arrive later.
            Unit::Requests => {
                self.in_redis.fetch_max(free_at.0, Ordering::AcqRel);
            }
        }
    }

    /// Counts use of a limit per minute that Redis granted, up to a minute's worth. Use above the part of this replica shall not
    /// block the replica for longer.
    pub(super) fn count(&self, span: u64, now: Moment) {
        let next = |free_at: u64| {
            let used = free_at.saturating_sub(now.0);
            now.0.saturating_add(used.max(used.saturating_add(span).min(MINUTE)))
        };
        self.here.update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Admits a request under a limit per minute, or returns the microseconds until its own turn. What Redis told last counts as
    /// used: the parts of all replicas are parts of the rest.
    pub(super) fn admit(&self, rate: Rate, now: Moment, cost: u64) -> Result<(), u64> {
        let (in_redis, mut wait) = (self.in_redis.load(Ordering::Acquire), 0);
        let next =
            |free_at: u64| rate.admit(free_at.max(in_redis), now.0, cost).inspect_err(|after| wait = *after).ok();
        if self.here.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok() {
            return Ok(());
        }
        let turn = |last| rate.turn(last, now.0, wait, cost);
        let last = self.turn_here.update(Ordering::AcqRel, Ordering::Acquire, turn);
        Err(turn(last).saturating_sub(now.0))
    }
}
