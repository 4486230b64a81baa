//! Randomness as a parameter.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Source of random bytes: the system in production, a fixed sequence in tests.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    fill: fn(&mut [u8]) -> Result<(), NoChance>,
}

/// The system gave no random bytes. Code that needs random bytes must stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gave no random bytes: check that getrandom(2) works and is allowed")]
pub struct NoChance;

impl Chance {
    /// The system's random number generator.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads random bytes from the system")]
    pub const fn system() -> Self {
        Self { fill: |bytes| getrandom::fill(bytes).map_err(|_| NoChance) }
    }

    /// A source that calls `fill`.
    pub const fn from_fn(fill: fn(&mut [u8]) -> Result<(), NoChance>) -> Self {
        Self { fill }
    }

    /// `N` random bytes.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn bytes<const N: usize>(self) -> Result<[u8; N], NoChance> {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes)?;
        Ok(bytes)
    }
}

/// Random numbers that need not be hard to guess: for shares by weight and for pauses. Seeded once, as random bytes from the
/// system would cost each request a system call.
#[derive(Debug)]
pub struct Dice(AtomicU64);

impl Dice {
    /// Dice with a random seed.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn new(chance: Chance) -> Result<Self, NoChance> {
        Ok(Self::seeded(u64::from_be_bytes(chance.bytes()?)))
    }

    /// Dice that draw the same sequence for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A random number above 0 and up to 1.
    pub fn draw(&self) -> f64 {
        unit(self.0.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// A seed computed from these texts. The same texts give the same seed in every process and version; other texts give another
/// seed.
pub fn seed(texts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        // The length tells `["ab", "c"]` from `["a", "bc"]`.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// The increment of `SplitMix64`: an odd number without a pattern in its bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number above 0 and up to 1 computed from `seed`. The same seed gives the same number in every process and version. Seeds
/// that differ in one bit give independent numbers (`SplitMix64`).
pub fn unit(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // A float holds 53 bits exactly.
    ((mixed >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly_and_never_zero() {
        let dice = Dice::seeded(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let draw = dice.draw();
            assert!(draw > 0.0 && draw <= 1.0);
            tenths[((draw * 10.0) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{tenths:?}");
    }
}
