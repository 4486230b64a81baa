//! Random numbers that need not be hard to guess.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::random::{NoRandomBytes, RandomBytes, SEED_STEP, unit};

/// A source of random numbers that need not be hard to guess: for shares by weight and for pauses. It gets a random seed once,
/// because random bytes from the system would cost each request a system call.
#[derive(Debug)]
pub struct RandomSource(AtomicU64);

impl RandomSource {
    /// Makes a source of random numbers with a random seed.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn new(random_bytes: RandomBytes) -> Result<Self, NoRandomBytes> {
        Ok(Self::seeded(u64::from_be_bytes(random_bytes.bytes()?)))
    }

    /// Makes a source of random numbers that returns the same sequence for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Returns a random number above 0 and up to 1.
    pub fn draw(&self) -> f64 {
        unit(self.0.fetch_add(SEED_STEP, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly_and_never_zero() {
        let random = RandomSource::seeded(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let draw = random.draw();
            assert!(draw > 0.0 && draw <= 1.0);
            tenths[((draw * 10.0) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{tenths:?}");
    }
}
