//! The arithmetic of a rate limit: GCRA, with costs that vary and are corrected later.
//!
//! The state is one number: the moment at which the whole limit is free again. Each admission moves this moment by the time in which its cost
//! becomes free. The moment may be a minute ahead at most. The functions are pure, so that memory and Redis come to the same result. Times are
//! whole microseconds: Redis counts in doubles, and they are exact for microseconds since 1970.

/// Microseconds of a minute. All rate limits are per minute, and a whole minute's worth may be used at once.
pub(super) const MINUTE: u64 = 60_000_000;

/// A limit per minute, of requests or of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(u64);

impl Rate {
    /// Makes a rate limit of `count` requests or tokens per minute, at least 1.
    pub(super) fn per_minute(count: u32) -> Self {
        Self(u64::from(count.max(1)))
    }

    /// How many requests or tokens this rate limit allows per minute.
    pub(super) fn limit(self) -> u64 {
        self.0
    }

    /// Microseconds in which a used `cost` becomes free again under this rate limit. Rounded up: otherwise many small costs would
    /// exceed the limit.
    pub(super) fn span(self, cost: u64) -> u64 {
        u64::try_from((u128::from(cost) * u128::from(MINUTE)).div_ceil(u128::from(self.0))).unwrap_or(u64::MAX)
    }

    /// The part of this rate limit that one of `replicas` may use alone, at least 1 per minute.
    #[must_use]
    pub(super) fn share(self, replicas: u32) -> Self {
        Self((self.0 / u64::from(replicas.max(1))).max(1))
    }

    /// Admits a request with this `cost` at `now`, if the rate limit has room. `free_at` is the state: when the whole limit is
    /// free again. Returns the next state, or the microseconds to wait.
    ///
    /// A cost above a minute's worth is admitted once nothing is used: otherwise it would never be admitted.
    pub(super) fn admit(self, free_at: u64, now: u64, cost: u64) -> Result<u64, u64> {
        let used = free_at.saturating_sub(now);
        let span = self.span(cost);
        let wait = used.min(used.saturating_add(span).saturating_sub(MINUTE));
        if wait == 0 { Ok(now.saturating_add(used).saturating_add(span)) } else { Err(wait) }
    }

    /// Computes the turn of a request that a rate limit refuses at `now`: when the request may come again. `wait` = its wait
    /// without other requests. `last` = the turn of the request that was refused before it; the result is the next `last`.
    ///
    /// Each refused request gets a turn of its own, behind the others. With the same moment for all, they would come together,
    /// and all but one would be refused again. A turn reserves nothing, and passes if nobody comes. No turn is more than a minute
    /// ahead: SDKs give up if they are told to wait longer than 60 to 120 s.
    pub(super) fn turn(self, last: u64, now: u64, wait: u64, cost: u64) -> u64 {
        let earliest = now.saturating_add(wait);
        if last <= now {
            return earliest;
        }
        let behind = last.saturating_add(self.span(cost)).min(now.saturating_add(MINUTE));
        earliest.max(behind)
    }

    /// Whether so many refused requests already have turns that this rate limit has no turn within a minute left.
    pub(super) fn has_no_turn(self, last: u64, now: u64, cost: u64) -> bool {
        last.saturating_add(self.span(cost)) > now.saturating_add(MINUTE)
    }

    /// Corrects the reservation of a request in a rate limit, made at `since`, to its real use. Returns the next state of the limit.
    ///
    /// The correction gives back only what time has not freed already. Otherwise others could use the same minute twice after a
    /// long request.
    pub(super) fn settle(self, free_at: u64, now: u64, since: u64, reserved: u64, used: u64) -> u64 {
        match self.correction(since, now, reserved, used) {
            Correction::More(span) => free_at.max(now).saturating_add(span),
            Correction::Back(span) => free_at.saturating_sub(span),
        }
    }

    /// Computes how the state of a rate limit moves when a reservation, made at `since`, is corrected to the real use.
    pub(super) fn correction(self, since: u64, now: u64, reserved: u64, used: u64) -> Correction {
        if used >= reserved {
            return Correction::More(self.span(used - reserved));
        }
        // The span of `used` stays, rounded up.
        let back = self.span(reserved).saturating_sub(self.span(used));
        Correction::Back(back.saturating_sub(now.saturating_sub(since)))
    }

    /// How many requests or tokens of this rate limit are left at `now`.
    pub(super) fn remaining(self, free_at: u64, now: u64) -> u64 {
        let left = MINUTE.saturating_sub(free_at.saturating_sub(now));
        u64::try_from(u128::from(left) * u128::from(self.0) / u128::from(MINUTE)).unwrap_or(u64::MAX)
    }
}

/// How far the state of a rate limit moves, in microseconds, when a reservation is corrected to the real use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Correction {
    /// The request used more than it reserved.
    More(u64),
    /// The request used less than it reserved.
    Back(u64),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_minutes_worth_is_admitted_at_once_and_the_rest_as_it_becomes_free() {
        let rate = Rate::per_minute(60);
        let mut state = 0;
        for left in (0..60).rev() {
            state = rate.admit(state, 0, 1).unwrap();
            assert_eq!(rate.remaining(state, 0), left);
        }
        assert_eq!(rate.admit(state, 0, 1), Err(SECOND));
        assert_eq!(rate.admit(state, SECOND / 2, 1), Err(SECOND / 2));
        state = rate.admit(state, SECOND, 1).unwrap();
        assert_eq!(rate.admit(state, SECOND, 2), Err(2 * SECOND));
        assert_eq!(rate.remaining(state, 61 * SECOND), 60);
    }

    #[test]
    fn a_cost_above_the_limit_is_admitted_alone() {
        let rate = Rate::per_minute(1000);
        let state = rate.admit(0, 0, 5000).unwrap();
        assert_eq!(state, 5 * MINUTE);
        assert_eq!(rate.remaining(state, 0), 0);
        assert_eq!(rate.admit(state, 0, 5000), Err(5 * MINUTE));
        assert_eq!(rate.admit(state, 0, 1), Err(4 * MINUTE + SECOND * 60 / 1000));
        assert!(rate.admit(state, 5 * MINUTE, 5000).is_ok());
    }

    #[test]
    fn an_unused_reservation_is_given_back_once() {
        let rate = Rate::per_minute(100);
        let reserved = rate.admit(0, 0, 100).unwrap();
        assert_eq!(rate.remaining(rate.settle(reserved, 0, 0, 100, 10), 0), 90);
        assert_eq!(rate.remaining(rate.settle(reserved, 0, 0, 100, 100), 0), 0);
        // A minute later time has freed all of it, and another request uses it.
        let taken = rate.admit(reserved, MINUTE, 100).unwrap();
        assert_eq!(rate.remaining(rate.settle(taken, MINUTE, 0, 100, 10), MINUTE), 0);
        // Half a minute later, half of it.
        let half = rate.settle(reserved, MINUTE / 2, 0, 100, 0);
        assert_eq!(rate.remaining(half, MINUTE / 2), 100);
        // Use beyond the reservation counts.
        assert_eq!(rate.remaining(rate.settle(reserved, MINUTE, 0, 100, 130), MINUTE), 70);
    }

    #[test]
    fn turns_follow_each_other_and_are_a_minute_ahead_at_most() {
        let rate = Rate::per_minute(6);
        let now = 100 * SECOND;
        let mut last = 0;
        for turn in [10, 20, 30, 40, 50, 60, 60, 60] {
            assert!(turn == 60 || !rate.has_no_turn(last, now, 1));
            last = rate.turn(last, now, 10 * SECOND, 1);
            assert_eq!(last, now + turn * SECOND);
        }
        assert!(rate.has_no_turn(last, now, 1));
        // Ten seconds later one more has become free.
        assert!(!rate.has_no_turn(last, now + 10 * SECOND, 1));
        // A turn in the past delays nobody.
        assert_eq!(rate.turn(last, last, SECOND, 1), last + SECOND);
        // A debt delays every turn, however long it is.
        assert_eq!(rate.turn(last, now, 5 * MINUTE, 1), now + 5 * MINUTE);
        assert_eq!(rate.turn(u64::MAX, now, u64::MAX, u64::MAX), u64::MAX);
    }

    proptest! {
        /// In any period no more is admitted than a minute's worth, and what becomes free in the period.
        #[test]
        fn admissions_never_exceed_the_limit(limit in 1_u32..500, asks in prop::collection::vec((0_u64..5 * SECOND, 1_u64..20), 1..300)) {
            let rate = Rate::per_minute(limit);
            let (mut state, mut now) = (0, 0);
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (pause, cost) in asks {
                now += pause;
                let cost = cost.min(u64::from(limit));
                match rate.admit(state, now, cost) {
                    Ok(next) => {
                        state = next;
                        admitted.push((now, cost));
                    }
                    Err(wait) => {
                        // The wait is enough, and not longer than needed.
                        prop_assert!(rate.admit(state, now + wait, cost).is_ok());
                        prop_assert!(rate.admit(state, now + wait - 1, cost).is_err());
                    }
                }
                for (i, (from, _)) in admitted.iter().enumerate() {
                    let sum: u64 = admitted.iter().skip(i).map(|(_, cost)| cost).sum();
                    let allowed = u128::from(limit) + u128::from(now - from) * u128::from(limit) / u128::from(MINUTE);
                    // Each admission may round down by less than one nanosecond.
                    prop_assert!(u128::from(sum) <= allowed + 1, "{sum} of {allowed} since {from}");
                }
            }
        }

        /// With corrected reservations, the real use keeps to the limit, except for requests in progress.
        #[test]
        fn corrections_never_exceed_the_limit(limit in 10_u32..500, asks in prop::collection::vec((0_u64..10 * SECOND, 1_u64..30, 0_u64..90 * SECOND, 0_u64..30), 1..100)) {
            let rate = Rate::per_minute(limit);
            // Admissions and their corrections, in the order of time.
            let mut events: Vec<(u64, usize, bool)> = Vec::new();
            let mut now = 0;
            for (nth, (pause, _, lasts, _)) in asks.iter().enumerate() {
                now += pause;
                events.push((now, nth, true));
                events.push((now + lasts, nth, false));
            }
            events.sort_unstable();
            let mut state = 0;
            let mut since = vec![None; asks.len()];
            let mut used: Vec<(u64, u64)> = Vec::new();
            for (now, nth, begins) in events {
                let (_, reserved, _, really) = asks[nth];
                // No use beyond the reservation here: it would be a debt.
                let (reserved, really) = (reserved.min(u64::from(limit)), really.min(reserved).min(u64::from(limit)));
                if begins {
                    if let Ok(next) = rate.admit(state, now, reserved) {
                        state = next;
                        since[nth] = Some(now);
                        used.push((now, really));
                    }
                } else if let Some(since) = since[nth] {
                    state = rate.settle(state, now, since, reserved, really);
                }
                for (i, (from, _)) in used.iter().enumerate() {
                    let sum: u64 = used.iter().skip(i).map(|(_, cost)| cost).sum();
                    let allowed = u128::from(limit) + u128::from(now - from) * u128::from(limit) / u128::from(MINUTE);
                    prop_assert!(u128::from(sum) <= allowed + 1, "{sum} of {allowed} since {from}");
                }
            }
        }
    }
}
