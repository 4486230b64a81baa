//! Two counts over the last seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Counts of two kinds over the last `N` time steps, the current step included.
#[derive(Debug)]
pub(super) struct SlidingWindow<const N: usize> {
    began: Instant,
    step: Duration,
    /// The number of the newest counted step, since `began`.
    last: u64,
    counts: [(u32, u32); N],
}

impl<const N: usize> SlidingWindow<N> {
    pub(super) fn new(now: Instant, step: Duration) -> Self {
        Self { began: now, step, last: 0, counts: [(0, 0); N] }
    }

    /// Adds to the counts of the current step.
    pub(super) fn add(&mut self, now: Instant, first: u32, second: u32) {
        self.advance(now);
        let current = (self.last % N as u64) as usize;
        if let Some(count) = self.counts.get_mut(current) {
            count.0 = count.0.saturating_add(first);
            count.1 = count.1.saturating_add(second);
        }
    }

    /// Returns the sums of both kinds.
    pub(super) fn sums(&mut self, now: Instant) -> (u32, u32) {
        self.advance(now);
        self.counts.iter().fold((0, 0), |sums, count| (sums.0.saturating_add(count.0), sums.1.saturating_add(count.1)))
    }

    /// Resets all counts.
    pub(super) fn clear(&mut self) {
        self.counts = [(0, 0); N];
    }

    fn advance(&mut self, now: Instant) {
        let step = now.saturating_duration_since(self.began).as_millis() / self.step.as_millis().max(1);
        let step = u64::try_from(step).unwrap_or(u64::MAX);
        if step.saturating_sub(self.last) >= N as u64 {
            self.clear();
            self.last = step;
        }
        while self.last < step {
            self.last += 1;
            let current = (self.last % N as u64) as usize;
            if let Some(count) = self.counts.get_mut(current) {
                *count = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_counts_leave_the_window() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut window = SlidingWindow::<3>::new(began, Duration::from_secs(1));
        window.add(at(0), 1, 0);
        window.add(at(1), 2, 1);
        assert_eq!(window.sums(at(2)), (3, 1));
        assert_eq!(window.sums(at(3)), (2, 1));
        assert_eq!(window.sums(at(4)), (0, 0));
        window.add(at(100), 5, 5);
        assert_eq!(window.sums(at(102)), (5, 5));
        assert_eq!(window.sums(at(103)), (0, 0));
        // Time that stands still or goes back counts as now.
        window.add(at(50), 1, 0);
        assert_eq!(window.sums(at(103)), (1, 0));
    }
}
