//! Limits in the memory of this process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{
    gcra::{MINUTE, Rate},
    subject::{Item, Share, What},
};
use crate::domain::spending::{Alone, Short};

/// What is used of a key's or group's limits. One for all workers.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// States of [`Rate`], in microseconds since `Meters::began`.
    pub(super) requests: AtomicU64,
    pub(super) tokens: AtomicU64,
    /// When the request that was refused last shall come back, of requests and of tokens.
    turns: [AtomicU64; 2],
    /// The states as Redis said last, of requests and of tokens.
    there: [AtomicU64; 2],
    /// The turn of a request as Redis said last.
    turn_there: AtomicU64,
    in_flight: AtomicUsize,
}

/// One of what was asked for is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Its place in the list.
    pub(super) nth: usize,
    /// Microseconds until it is worth trying again, as far as one can tell.
    pub(super) wait: u64,
}

/// What of a budget is set aside comes back at some time: when, nobody knows. Worth asking again after so many microseconds.
pub(super) const SOON: u64 = 1_000_000;

/// Nobody shares the limits.
pub(super) const UNSHARED: Alone = Alone { replicas: 1, outage: 0, late: true };

/// Takes all items or none. While others share the limits and cannot be asked, only a part of each.
pub(super) fn take(shares: &[Share], items: &[Item], now: u64, alone: Alone) -> Result<(), Lacking> {
    let replicas = alone.replicas;
    for (nth, item) in items.iter().enumerate() {
        let Some(share) = shares.get(item.share) else { continue };
        let taken = match &item.what {
            What::Place { limit } => share.meter.enter((limit / replicas.max(1) as usize).max(1)),
            What::Rate { tokens, rate, cost, .. } => {
                let rate = rate.share(replicas);
                let admitted = admit(share.meter.state(*tokens), rate, now, *cost);
                admitted.map_err(|wait| share.meter.turn(*tokens, rate, now, wait, *cost))
            }
            What::Spend { counter, limit, cost, .. } => {
                let taken = if replicas > 1 {
                    counter.reserve_alone(*limit, *cost, alone)
                } else {
                    counter.reserve(*limit, *cost)
                };
                taken.map_err(|short| if short == Short::Reserved { SOON } else { 0 })
            }
        };
        if let Err(wait) = taken {
            for item in items.iter().take(nth) {
                give_back(shares, item, now, replicas);
            }
            return Err(Lacking { nth, wait });
        }
    }
    Ok(())
}

/// Counts what was taken from what all share, so that this one of `replicas` knows how much of its own part that was, should it
/// have to count alone. Its part of a minute at most: what it had beyond that shall not bar it for longer, and is noted, as it
/// must not be given back either.
pub(super) fn count(shares: &[Share], items: &mut [Item], now: u64, replicas: u32) {
    for item in items {
        let Some(share) = shares.get(item.share) else { continue };
        match &mut item.what {
            What::Place { .. } => {
                share.meter.in_flight.fetch_add(1, Ordering::AcqRel);
            }
            What::Rate { tokens, rate, cost, counted } => {
                let span = rate.share(replicas).span(*cost);
                *counted = Some(share.meter.add(*tokens, span, now));
            }
            What::Spend { counter, cost, .. } => counter.hold(*cost),
        }
    }
}

/// Corrects what was [counted](count) to what was used.
pub(super) fn recount(share: &Share, tokens: bool, counted: u64, used: u64, since: u64, now: u64) {
    if used >= counted {
        share.meter.add(tokens, used - counted, now);
    } else {
        let back = (counted - used).saturating_sub(now.saturating_sub(since));
        let next = |free_at: u64| Some(free_at.saturating_sub(back));
        let _ = share.meter.state(tokens).fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }
}

fn give_back(shares: &[Share], item: &Item, now: u64, replicas: u32) {
    let Some(share) = shares.get(item.share) else { return };
    match &item.what {
        What::Place { .. } => share.meter.leave(),
        What::Rate { tokens, rate, cost, .. } => {
            settle(share.meter.state(*tokens), rate.share(replicas), now, now, *cost, 0);
        }
        What::Spend { counter, cost, .. } => counter.release(*cost),
    }
}

pub(super) fn admit(state: &AtomicU64, rate: Rate, now: u64, cost: u64) -> Result<(), u64> {
    let mut wait = 0;
    let next = |free_at| rate.admit(free_at, now, cost).inspect_err(|after| wait = *after).ok();
    let admitted = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok();
    if admitted { Ok(()) } else { Err(wait) }
}

/// Corrects a rate to what was used.
pub(super) fn settle(state: &AtomicU64, rate: Rate, now: u64, since: u64, reserved: u64, used: u64) {
    let next = |free_at| Some(rate.settle(free_at, now, since, reserved, used));
    // Never refused.
    let _ = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
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

    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Moves the state of a rate by so many microseconds, but not beyond a minute; by how many it was.
    fn add(&self, tokens: bool, span: u64, now: u64) -> u64 {
        let mut added = 0;
        let next = |free_at: u64| {
            let used = free_at.saturating_sub(now);
            added = span.min(MINUTE.saturating_sub(used));
            Some(now.saturating_add(used).saturating_add(added))
        };
        let _ = self.state(tokens).fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        added
    }

    /// For how many microseconds a request waits that is refused now: until its own turn.
    fn turn(&self, tokens: bool, rate: Rate, now: u64, wait: u64, cost: u64) -> u64 {
        let [requests, of_tokens] = &self.turns;
        let turns = if tokens { of_tokens } else { requests };
        let next = |last| Some(rate.turn(last, now, wait, cost));
        // Never refused.
        let last = turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
        rate.turn(last, now, wait, cost).saturating_sub(now)
    }

    /// The turn of a request as Redis said last.
    pub(super) fn turn_there(&self) -> u64 {
        self.turn_there.load(Ordering::Acquire)
    }

    /// Redis refused a request, whose turn is at this moment.
    pub(super) fn told_turn(&self, turn: u64) {
        self.turn_there.store(turn, Ordering::Release);
    }

    /// What Redis said last of tokens, or of requests.
    pub(super) fn there(&self, tokens: bool) -> u64 {
        let [requests, of_tokens] = &self.there;
        if tokens { of_tokens } else { requests }.load(Ordering::Acquire)
    }

    /// Redis says that all of a rate is back at this moment.
    pub(super) fn told(&self, tokens: bool, free_at: u64) {
        let [requests, of_tokens] = &self.there;
        if tokens {
            of_tokens.store(free_at, Ordering::Release);
        } else {
            // Of requests nothing is ever given back: what was said later and came sooner is not forgotten.
            requests.fetch_max(free_at, Ordering::AcqRel);
        }
    }

    /// That of tokens, or of requests.
    pub(super) fn state(&self, tokens: bool) -> &AtomicU64 {
        if tokens { &self.tokens } else { &self.requests }
    }
}
