//! The counts of a circuit breaker: consecutive faults and the share of faults, for each client key. So one client cannot eject
//! an upstream that other clients use.

use std::time::Duration;

use tokio::time::Instant;

use super::window::SlidingWindow;
use crate::config::Health;

/// The share of faults counts only from this many attempts on: three faults of five attempts prove nothing.
const MIN_ATTEMPTS: u32 = 20;

/// Attempts of the last 30 s, in 5-second steps.
const WINDOW: (usize, Duration) = (6, Duration::from_secs(5));

/// A key is in use for this long after its last attempt, which is as long as its attempts are counted.
const IN_USE: Duration = Duration::from_secs(30);

/// A key shares a breaker for this long after its last attempt. Faults of one key alone never eject a shared breaker.
const SHARED_FOR: Duration = Duration::from_secs(3600);

/// The most keys that one breaker counts separately. A further key replaces the key that has been idle the longest.
const MAX_KEYS: usize = 16;

/// A number that identifies a client key in the failure counts of upstreams and credentials.
pub type KeyId = u64;

/// Replaces the client's key where clients do not matter, such as for connections.
pub(super) const ANY_KEY: KeyId = 0;

/// The counts of one key.
#[derive(Debug)]
struct KeyFailures {
    key: KeyId,
    used: Instant,
    /// Whether this key contributed to the current run of consecutive faults.
    in_row: bool,
    /// Consecutive faults of this key, whatever other keys get.
    own_row: u32,
    /// The time until which the breaker is shut for this key alone.
    shut_until: Option<Instant>,
    /// Attempts and faults.
    window: SlidingWindow<{ WINDOW.0 }>,
}

/// The counts of one breaker.
#[derive(Debug, Default)]
pub(super) struct FailureCounts {
    in_a_row: u32,
    keys: Vec<KeyFailures>,
}

/// The keys whose faults caused an ejection: one key or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureSource {
    One(KeyId),
    Several,
}

impl FailureCounts {
    fn of_key(&mut self, key: KeyId, now: Instant) -> Option<&mut KeyFailures> {
        let index = self.keys.iter().position(|of| of.key == key).unwrap_or_else(|| {
            let fresh = KeyFailures {
                key,
                used: now,
                in_row: false,
                own_row: 0,
                shut_until: None,
                window: SlidingWindow::new(now, WINDOW.1),
            };
            if self.keys.len() < MAX_KEYS {
                self.keys.push(fresh);
                return self.keys.len() - 1;
            }
            let idle = (0..).zip(&self.keys).min_by_key(|(_, of)| of.used).map_or(0, |(index, _)| index);
            if let Some(place) = self.keys.get_mut(idle) {
                *place = fresh;
            }
            idle
        });
        self.keys.get_mut(index)
    }

    /// Notes that an attempt of this key begins.
    pub(super) fn uses(&mut self, key: KeyId, now: Instant) {
        if let Some(of) = self.of_key(key, now) {
            of.used = of.used.max(now);
        }
    }

    /// Returns the keys that share the breaker: the keys of the last hour.
    pub(super) fn sharers(&self, now: Instant) -> impl Iterator<Item = KeyId> {
        self.keys.iter().filter(move |of| now < of.used + SHARED_FOR).map(|of| of.key)
    }

    /// Whether no other key shares the breaker. [`ANY_KEY`] counts as an only key.
    pub(super) fn is_alone(&self, key: KeyId, now: Instant) -> bool {
        key == ANY_KEY || self.sharers(now).all(|other| other == key || other == ANY_KEY)
    }

    /// Counts a success.
    pub(super) fn succeeded(&mut self, key: KeyId, now: Instant) {
        self.in_a_row = 0;
        for of in &mut self.keys {
            of.in_row = false;
        }
        if let Some(of) = self.of_key(key, now) {
            (of.own_row, of.shut_until) = (0, None);
            of.window.add(now, 1, 0);
        }
    }

    /// Counts a failure.
    pub(super) fn failed(&mut self, key: KeyId, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(of) = self.of_key(key, now) {
            of.used = of.used.max(now);
            of.in_row = true;
            of.own_row = of.own_row.saturating_add(1);
            of.window.add(now, 1, 1);
        }
    }

    /// Returns whose faults are too many, if any are.
    pub(super) fn is_too_much(&mut self, now: Instant, health: &Health) -> Option<FailureSource> {
        self.row(now, health).or_else(|| self.share(now, health))
    }

    /// Shuts the breaker for this key alone if its own faults are too many: other keys may have no faults. Returns the time until
    /// which the breaker is shut. After that time, one further fault shuts it again, until an attempt succeeds.
    pub(super) fn shut_for(&mut self, key: KeyId, now: Instant, health: &Health) -> Option<Instant> {
        let of = self.of_key(key, now)?;
        let (tried, faults) = of.window.sums(now);
        let is_share =
            tried >= MIN_ATTEMPTS && u64::from(faults) * 100 >= u64::from(tried) * u64::from(health.fault_percent);
        if of.own_row < health.consecutive_faults && !is_share {
            return None;
        }
        of.shut_until = Some(now + health.eject);
        of.shut_until
    }

    /// Returns the time for which the breaker stays shut for this key alone.
    pub(super) fn shut(&self, key: KeyId, now: Instant) -> Option<Duration> {
        let until = self.keys.iter().find(|of| of.key == key)?.shut_until?;
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Returns the source of enough consecutive faults. Every key in use must have one of them. Where as many different keys as
    /// `consecutive_faults` agree, the other keys do not matter.
    fn row(&self, now: Instant, health: &Health) -> Option<FailureSource> {
        if self.in_a_row < health.consecutive_faults {
            return None;
        }
        let most = usize::try_from(health.consecutive_faults).unwrap_or(usize::MAX);
        let all_agree = self.keys.iter().filter(|of| now < of.used + IN_USE).all(|of| of.in_row);
        let mut failing_keys = self.keys.iter().filter(|of| of.in_row);
        let first = failing_keys.next()?;
        let others = failing_keys.count();
        if !all_agree && others + 1 < most.max(2) {
            return None;
        }
        if others == 0 && !self.is_alone(first.key, now) {
            return None;
        }
        Some(if others == 0 { FailureSource::One(first.key) } else { FailureSource::Several })
    }

    /// Returns the source of a too large share of faults, from [`MIN_ATTEMPTS`] attempts on. The share must be too large for a key by
    /// itself, and such keys must be too large a share of all keys. Of several keys, at least two must have such a share.
    fn share(&mut self, now: Instant, health: &Health) -> Option<FailureSource> {
        let is_share = |faults: u32, attempts: u32| {
            u64::from(faults) * 100 >= u64::from(attempts) * u64::from(health.fault_percent)
        };
        let (mut attempts, mut users, mut sharers, mut failing_keys, mut first) = (0_u32, 0_u32, 0_u32, 0_u32, None);
        for of in &mut self.keys {
            let (tried, faults) = of.window.sums(now);
            attempts = attempts.saturating_add(tried);
            users += u32::from(tried > 0 || now < of.used + IN_USE);
            sharers += u32::from(now < of.used + SHARED_FOR);
            if faults > 0 && is_share(faults, tried) {
                failing_keys += 1;
                first = first.or(Some(of.key));
            }
        }
        let enough =
            attempts >= MIN_ATTEMPTS && failing_keys >= sharers.max(users).min(2) && is_share(failing_keys, users);
        let first = first.filter(|_| enough)?;
        Some(if failing_keys == 1 { FailureSource::One(first) } else { FailureSource::Several })
    }

    /// Whether no fault is counted any more.
    pub(super) fn is_clean(&mut self, now: Instant) -> bool {
        self.in_a_row == 0 && self.keys.iter_mut().all(|of| of.own_row == 0 && of.window.sums(now).1 == 0)
    }

    /// Resets the counts, but remembers the keys in use.
    pub(super) fn clear(&mut self) {
        self.in_a_row = 0;
        for of in &mut self.keys {
            (of.in_row, of.own_row, of.shut_until) = (false, 0, None);
            of.window.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: Health = Health {
        consecutive_faults: 5,
        fault_percent: 50,
        eject: Duration::from_secs(30),
        eject_max: Duration::from_secs(300),
        refused: Duration::from_secs(600),
        cooldown_max: Duration::from_secs(300),
    };

    /// Runs attempts, one for each letter: the letter is the key, and a capital letter is a failure. Returns the source
    /// after the last attempt.
    fn play(attempts: &str) -> Option<FailureSource> {
        let (mut failure_counts, now) = (FailureCounts::default(), Instant::now());
        for attempt in attempts.chars() {
            let key = KeyId::from(u32::from(attempt.to_ascii_lowercase()));
            failure_counts.uses(key, now);
            if attempt.is_ascii_uppercase() {
                failure_counts.failed(key, now)
            } else {
                failure_counts.succeeded(key, now)
            }
        }
        failure_counts.is_too_much(now, &HEALTH)
    }

    #[test]
    fn ejections_need_faults_of_enough_keys() {
        let alone = Some(FailureSource::One(KeyId::from(b'a')));
        for (attempts, wanted) in [
            ("AAAA", None),
            ("AAAAA", alone),
            ("aAAAAA", alone),
            // Another key uses the breaker and has seen no failure.
            ("bAAAAA", None),
            (&"AAAAAAAAAAb".repeat(20), None),
            (&format!("b{}", "A".repeat(500)), None),
            // The other key has seen a failure, too.
            ("bAAAAB", Some(FailureSource::Several)),
            ("BAAAA", Some(FailureSource::Several)),
            // A success of any key resets the count.
            ("BAAAbA", None),
            // Of three keys in use, two are not enough; five keys are as many as necessary.
            ("cBAAAA", None),
            ("cBAAAAC", Some(FailureSource::Several)),
            ("zABCDE", Some(FailureSource::Several)),
            ("zABCDD", None),
            // By the share of failures: each key counts once.
            (&"Aa".repeat(10), alone),
            (&"AaBb".repeat(5), Some(FailureSource::Several)),
            (&format!("{}{}", "b".repeat(20), "A".repeat(100)), None),
            (&format!("{}{}b", "Bbbb".repeat(5), "A".repeat(100)), None),
        ] {
            assert_eq!(play(attempts), wanted, "{attempts}");
        }
    }

    #[test]
    fn a_key_that_was_idle_for_long_does_not_count() {
        let (mut failure_counts, began) = (FailureCounts::default(), Instant::now());
        failure_counts.uses(2, began);
        failure_counts.succeeded(2, began);
        let fails = |failure_counts: &mut FailureCounts, after: u64| {
            let now = began + Duration::from_secs(after);
            for _ in 0..5 {
                failure_counts.failed(1, now);
            }
            failure_counts.is_too_much(now, &HEALTH)
        };
        assert_eq!(fails(&mut failure_counts, 29), None);
        // After some idle time, the other key still shares the breaker.
        assert_eq!(fails(&mut failure_counts, 31), None);
        assert_eq!(fails(&mut failure_counts, 3599), None);
        assert_eq!(fails(&mut failure_counts, 3601), Some(FailureSource::One(1)));
    }

    #[test]
    fn the_number_of_counted_keys_is_bounded() {
        let (mut failure_counts, now) = (FailureCounts::default(), Instant::now());
        for key in 0..1000 {
            failure_counts.uses(key, now + Duration::from_millis(key));
        }
        assert_eq!(failure_counts.keys.len(), MAX_KEYS);
        assert!(failure_counts.sharers(now).all(|key| key >= 1000 - MAX_KEYS as u64));
    }
}
