//! What passes something by that fails, and lets it come back: for an upstream as a whole, and for each credential.
//!
//! In service -> out (for a time) -> on probation (one request probes) -> in service, or out again for longer. Reading
//! how it stands costs two loads; the tally behind it is kept under a lock that is held for nanoseconds.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::window::Window;
use crate::{
    config::Health,
    domain::{
        chance::Dice,
        standing::{Cause, Standing},
    },
};

/// Faults are judged by their share only among this many attempts: three of five say nothing.
const ENOUGH: u32 = 20;

/// Attempts of the last 30 s, in steps of 5.
const WINDOW: (usize, Duration) = (6, Duration::from_secs(5));

/// A 429 without `Retry-After`: first this long, twice as long each further time in a row, but no longer than that.
const COOLDOWN: Duration = Duration::from_secs(1);
const COOLDOWN_MAX: Duration = Duration::from_secs(30);

/// A probe that has said nothing for this long lets another one through: an answer that is not streamed takes minutes,
/// and whoever is back should not wait for it.
const PROBE_WITHIN: Duration = Duration::from_secs(30);

/// The gate of one upstream or one credential.
#[derive(Debug)]
pub(super) struct Gate {
    began: Instant,
    /// Milliseconds since `began`, plus one, until which it is out; 0 = it is in service.
    until: AtomicU64,
    cause: AtomicU8,
    /// Milliseconds since `began`, plus one, at which the probe began; 0 = there is none.
    probing: AtomicU64,
    /// How many times it went out: tells what an attempt that is over has to do with how it stands now.
    epoch: AtomicU64,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    in_a_row: u32,
    limited_in_a_row: u32,
    window: Window<{ WINDOW.0 }>,
    /// Ejections that followed each other without a long time of health between them.
    ejections: u32,
    restored: Option<Instant>,
}

/// What an attempt may have to tell the gate when it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    epoch: u64,
    /// When it began to probe, as in the gate; 0 = it does not.
    probe: u64,
}

impl Pass {
    /// Whether this attempt is the one that probes.
    pub(super) fn is_probe(self) -> bool {
        self.probe > 0
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is out for so long.
    Out(Cause, Duration),
    /// It is in service again.
    Restored,
}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            until: AtomicU64::new(0),
            cause: AtomicU8::new(0),
            probing: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            tally: Mutex::new(Tally {
                in_a_row: 0,
                limited_in_a_row: 0,
                window: Window::new(now, WINDOW.1),
                ejections: 0,
                restored: None,
            }),
        }
    }

    /// How it stands.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Standing::InService;
        }
        let cause = self.cause();
        let left = (self.began + Duration::from_millis(until - 1)).saturating_duration_since(now);
        match (left.is_zero(), cause) {
            // What asked for a pause gets no more than that.
            (true, Cause::RateLimited) => Standing::InService,
            (true, _) if !self.is_recent(self.probing.load(Ordering::Relaxed), now) => Standing::Probation(cause),
            _ => Standing::Out { cause, left },
        }
    }

    /// Milliseconds since `began`.
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a probe that began then, if one did, may still be waited for.
    fn is_recent(&self, probe: u64, now: Instant) -> bool {
        probe > 0 && now < self.began + Duration::from_millis(probe - 1) + PROBE_WITHIN
    }

    fn cause(&self) -> Cause {
        Cause::ALL.get(usize::from(self.cause.load(Ordering::Relaxed))).copied().unwrap_or(Cause::Faults)
    }

    /// Lets an attempt through. On probation only the first; where it is out only `anyway`, because nothing better is left.
    pub(super) fn pass(&self, now: Instant, anyway: bool) -> Option<Pass> {
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.standing(now) {
            Standing::InService => Some(Pass { epoch, probe: 0 }),
            Standing::Probation(_) => self.probe(now).or_else(|| anyway.then_some(Pass { epoch, probe: 0 })),
            Standing::Out { .. } => anyway.then_some(Pass { epoch, probe: 0 }),
        }
    }

    /// Under the lock: it may be going out again at this moment, and a probe of before would be waited for in vain.
    fn probe(&self, now: Instant) -> Option<Pass> {
        let _tally = self.tally();
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.standing(now) {
            Standing::InService => Some(Pass { epoch, probe: 0 }),
            Standing::Probation(_) => {
                let probe = self.millis(now).saturating_add(1);
                self.probing.store(probe, Ordering::Release);
                Some(Pass { epoch, probe })
            }
            Standing::Out { .. } => None,
        }
    }

    /// An attempt ended without telling anything.
    pub(super) fn abandoned(&self, pass: Pass) {
        if pass.is_probe() {
            let _tally = self.tally();
            self.release(pass);
        }
    }

    /// Whoever holds the place of the probe gives it back.
    fn release(&self, pass: Pass) {
        if pass.is_probe() && self.is_current(pass) && self.probing.load(Ordering::Relaxed) == pass.probe {
            self.probing.store(0, Ordering::Release);
        }
    }

    /// Whether nothing changed since the attempt began.
    fn is_current(&self, pass: Pass) -> bool {
        pass.epoch == self.epoch.load(Ordering::Acquire)
    }

    /// The first byte of an answer is here: whatever becomes of the rest, it serves again.
    pub(super) fn answers(&self, pass: Pass, now: Instant) -> Option<Change> {
        // Nearly always: without the lock.
        if self.until.load(Ordering::Acquire) == 0 || !self.is_current(pass) {
            return None;
        }
        let mut tally = self.tally();
        self.is_current(pass).then(|| self.restore(&mut tally, now))?
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&self, pass: Pass, now: Instant) -> Option<Change> {
        let mut tally = self.tally();
        tally.window.add(now, 1, 0);
        tally.in_a_row = 0;
        tally.limited_in_a_row = 0;
        if self.is_current(pass) { self.restore(&mut tally, now) } else { None }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, pass: Pass, now: Instant, health: &Health, dice: &Dice) -> Option<Change> {
        let mut tally = self.tally();
        tally.window.add(now, 1, 1);
        tally.in_a_row = tally.in_a_row.saturating_add(1);
        let current = self.is_current(pass);
        let too_many = match self.standing(now) {
            // The end of what began before it went out, or went there for want of better: nothing new.
            Standing::Out { left, .. } if !left.is_zero() => false,
            Standing::Out { .. } | Standing::Probation(_) => current,
            Standing::InService => {
                let (attempts, faults) = tally.window.sums(now);
                tally.in_a_row >= health.consecutive_faults
                    || (attempts >= ENOUGH
                        && u64::from(faults) * 100 >= u64::from(attempts) * u64::from(health.fault_percent))
            }
        };
        if !too_many {
            return None;
        }
        if tally.restored.is_some_and(|restored| now >= restored + health.eject_max) {
            tally.ejections = 0;
        }
        let times = 1_u32.checked_shl(tally.ejections).unwrap_or(u32::MAX);
        tally.ejections = tally.ejections.saturating_add(1);
        // Between 0.9 and 1.1 times as long, or all replicas would come back in the same moment.
        let length = health.eject.saturating_mul(times).min(health.eject_max).mul_f64(0.9 + dice.draw() / 5.0);
        Some(self.out(&mut tally, Cause::Faults, now, length))
    }

    /// An attempt was refused for its credential.
    pub(super) fn refused(&self, pass: Pass, now: Instant, health: &Health, dice: &Dice) -> Option<Change> {
        let mut tally = self.tally();
        // One that was under way when it went out says the same once more, and so does one that was asked all the same.
        match self.standing(now) {
            Standing::Out { .. } if !self.is_current(pass) => return None,
            Standing::Out { cause: Cause::Refused, left } if !left.is_zero() => return None,
            _ => {}
        }
        let length = health.refused.mul_f64(0.9 + dice.draw() / 5.0);
        Some(self.out(&mut tally, Cause::Refused, now, length))
    }

    /// An attempt was told to come later.
    pub(super) fn limited(&self, pass: Pass, now: Instant, after: Option<Duration>, health: &Health) -> Option<Change> {
        let mut tally = self.tally();
        // Many that were told so at once were told so once.
        if after.is_none() && !self.is_current(pass) && matches!(self.standing(now), Standing::Out { .. }) {
            return None;
        }
        let times = 1_u32.checked_shl(tally.limited_in_a_row).unwrap_or(u32::MAX);
        let length = match after {
            Some(after) => after.min(health.cooldown_max),
            None => {
                tally.limited_in_a_row = tally.limited_in_a_row.saturating_add(1);
                COOLDOWN.saturating_mul(times).min(COOLDOWN_MAX).min(health.cooldown_max)
            }
        };
        let (longer, known) = match self.standing(now) {
            Standing::Out { left, cause } => (length > left, cause == Cause::RateLimited),
            Standing::InService | Standing::Probation(_) => (!length.is_zero(), false),
        };
        if !longer {
            self.release(pass);
            return None;
        }
        let change = self.out(&mut tally, Cause::RateLimited, now, length);
        // Where nobody else is left it is asked all the same, and each answer says the same once more: no news.
        (!known).then_some(change)
    }

    fn out(&self, tally: &mut Tally, cause: Cause, now: Instant, length: Duration) -> Change {
        tally.in_a_row = 0;
        tally.window.clear();
        // To the next millisecond: nobody is back before the time that was asked for.
        let until = (now + length).saturating_duration_since(self.began).as_nanos().div_ceil(1_000_000);
        let until = u64::try_from(until).unwrap_or(u64::MAX - 1);
        self.cause.store(Cause::ALL.iter().position(|other| *other == cause).unwrap_or(0) as u8, Ordering::Relaxed);
        self.probing.store(0, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.until.store(until.saturating_add(1), Ordering::Release);
        Change::Out(cause, length)
    }

    fn restore(&self, tally: &mut Tally, now: Instant) -> Option<Change> {
        if self.until.swap(0, Ordering::AcqRel) == 0 {
            return None;
        }
        self.probing.store(0, Ordering::Release);
        // A pause that is over by itself is no recovery.
        (self.cause() != Cause::RateLimited).then(|| {
            // What began before it went out may have ended since: it says nothing of who is back.
            tally.in_a_row = 0;
            tally.window.clear();
            tally.restored = Some(now);
            Change::Restored
        })
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
