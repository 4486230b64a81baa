//! Randomness as a parameter, and numbers computed from seeds.

use sha2::{Digest, Sha256};

/// Source of random bytes: the system in production, a fixed sequence in tests.
#[derive(Clone, Copy, Debug)]
pub struct RandomBytes {
    fill: fn(&mut [u8]) -> Result<(), NoRandomBytes>,
}

/// The error that the operating system gave no random bytes. Code that needs random bytes must stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: check that Tidegate may call getrandom(2)")]
pub struct NoRandomBytes;

impl RandomBytes {
    /// A source of random bytes that asks the operating system.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads random bytes from the system")]
    pub const fn system() -> Self {
        Self { fill: |bytes| getrandom::fill(bytes).map_err(|_| NoRandomBytes) }
    }

    /// A source of random bytes that calls `fill`. Tests use such a source with fixed bytes.
    pub const fn from_fn(fill: fn(&mut [u8]) -> Result<(), NoRandomBytes>) -> Self {
        Self { fill }
    }

    /// Returns `N` random bytes.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn bytes<const N: usize>(self) -> Result<[u8; N], NoRandomBytes> {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes)?;
        Ok(bytes)
    }
}

/// Computes a 64-bit hash of these texts. The same texts give the same number in every process and version; other texts give
/// another number.
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

/// The increment of the random number generator `SplitMix64`: an odd number without a pattern in its bits.
pub const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Computes a pseudo-random number above 0 and up to 1 from `seed`. The same seed gives the same number in every process and
/// version. Seeds that differ in one bit give independent numbers (`SplitMix64`).
pub fn unit(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(SEED_STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // A float holds 53 bits exactly.
    ((mixed >> 11) + 1) as f64 / (1_u64 << 53) as f64
}
