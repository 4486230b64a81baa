//! Randomness as a parameter.

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
