//! Refusals of a credential by an upstream.

use tokio::time::Instant;

use crate::{domain::health_state::EjectionCause, upstream::failure_counts::KeyId};

/// A refusal of a credential, with the request that got the refusal.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Refused {
    pub(in crate::upstream) why: Refusal,
    pub(in crate::upstream) key: KeyId,
    /// A hash of the model's name.
    pub(in crate::upstream) model: u64,
    pub(in crate::upstream) at: Instant,
}

/// How certain a refusal is about the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Refusal {
    /// The credential is wrong.
    Key,
    /// The account's money is spent.
    Balance,
    /// A 402 without details: the account's money is spent, or the request costs too much.
    Payment,
}

impl Refusal {
    pub(super) fn cause(self) -> EjectionCause {
        if self == Self::Key { EjectionCause::Refused } else { EjectionCause::Unpaid }
    }
}
