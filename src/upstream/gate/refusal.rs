//! What a refusal of a credential says, and by what request it came.

use tokio::time::Instant;

use crate::{domain::standing::EjectionCause, upstream::tally::KeyId};

/// A refusal of a credential: by what request, and when.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Refused {
    pub(in crate::upstream) why: Refusal,
    pub(in crate::upstream) key: KeyId,
    /// A number that belongs to the model.
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
    /// A bare 402: money that is spent, or a request that costs too much.
    Payment,
}

impl Refusal {
    pub(super) fn cause(self) -> EjectionCause {
        if self == Self::Key { EjectionCause::Refused } else { EjectionCause::Unpaid }
    }
}
