//! Limits in the memory of this process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{
    gcra::{MINUTE, Rate},
    subject::{Item, Share, What},
};

/// What is used of a key's or group's limits. One for all workers.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// States of [`Rate`], in microseconds since `Meters::began`.
    pub(super) requests: AtomicU64,
    pub(super) tokens: AtomicU64,
    /// The same as Redis said last, of requests and of tokens.
    there: [AtomicU64; 2],
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

/// Takes all items or none. While others share the limits and cannot be asked, only a part of each: that of one of
/// `replicas`.
pub(super) fn take(shares: &[Share], items: &[Item], now: u64, replicas: u32) -> Result<(), Lacking> {
    for (nth, item) in items.iter().enumerate() {
        let Some(share) = shares.get(item.share) else { continue };
        let taken = match &item.what {
            What::Place { limit } => share.meter.enter((limit / replicas.max(1) as usize).max(1)),
            What::Rate { tokens, rate, cost } => {
                let rate = rate.share(replicas);
                admit(share.meter.state(*tokens), rate, now, *cost)
            }
            What::Spend { counter, limit, cost, .. } => {
                // Of what the ledger leaves to all of them. What this one spent since then is a part of its own.
                let told = counter.told();
                let part = limit.saturating_sub(told) / u64::from(replicas.max(1));
                if counter.reserve(told.saturating_add(part).min(*limit), *cost) { Ok(()) } else { Err(0) }
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
/// have to count alone. Its part of a minute at most: what it had beyond that shall not bar it for longer.
pub(super) fn count(shares: &[Share], items: &[Item], now: u64, replicas: u32) {
    for item in items {
        let Some(share) = shares.get(item.share) else { continue };
        match &item.what {
            What::Place { .. } => {
                share.meter.in_flight.fetch_add(1, Ordering::AcqRel);
            }
            What::Rate { tokens, rate, cost } => {
                let span = rate.share(replicas).span(*cost);
                let next = |free_at: u64| {
                    let used = free_at.saturating_sub(now);
                    let after = used.saturating_add(span).min(used.max(MINUTE));
                    Some(now.saturating_add(after))
                };
                let _ = share.meter.state(*tokens).fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
            }
            What::Spend { counter, cost, .. } => counter.hold(*cost),
        }
    }
}

fn give_back(shares: &[Share], item: &Item, now: u64, replicas: u32) {
    let Some(share) = shares.get(item.share) else { return };
    match &item.what {
        What::Place { .. } => share.meter.leave(),
        What::Rate { tokens, rate, cost } => {
            settle(share.meter.state(*tokens), rate.share(replicas), now, now, *cost, 0);
        }
        What::Spend { counter, cost, .. } => counter.release(*cost),
    }
}

fn admit(state: &AtomicU64, rate: Rate, now: u64, cost: u64) -> Result<(), u64> {
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
