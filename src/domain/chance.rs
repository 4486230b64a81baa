//! Randomness as a parameter.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Where random bytes come from: the system in production, a fixed sequence in tests.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    fill: fn(&mut [u8]) -> Result<(), NoChance>,
}

/// The system gave no random bytes. Nothing that needs them may go on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct NoChance;

impl Chance {
    /// The system's generator.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for random bytes")]
    pub const fn system() -> Self {
        Self { fill: |bytes| getrandom::fill(bytes).map_err(|_| NoChance) }
    }

    /// A source of the caller's own.
    pub const fn from_fn(fill: fn(&mut [u8]) -> Result<(), NoChance>) -> Self {
        Self { fill }
    }

    /// `N` random bytes.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn bytes<const N: usize>(self) -> Result<[u8; N], NoChance> {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes)?;
        Ok(bytes)
    }
}

/// Draws that need not be hard to guess: shares by weight, pauses. Seeded once; asking the system for each draw would
/// cost a request a system call.
#[derive(Debug)]
pub struct Dice(AtomicU64);

impl Dice {
    /// Dice that draw another sequence than all others.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new(chance: Chance) -> Result<Self, NoChance> {
        Ok(Self::seeded(u64::from_be_bytes(chance.bytes()?)))
    }

    /// Dice that draw the same sequence for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number above 0 and up to 1.
    pub fn draw(&self) -> f64 {
        unit(self.0.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// A seed that belongs to these texts: the same everywhere and always, and another one for other texts.
pub fn seed(texts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        // With its length, so that no two lists run together.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// The steps of `SplitMix64`: odd, with no pattern in its bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number above 0 and up to 1 that belongs to `seed`: the same for the same seed, everywhere and always. Seeds that
/// differ in one bit give numbers that have nothing to do with each other (`SplitMix64`).
pub fn unit(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // 53 bits are what a float holds exactly.
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
