//! Results of affinity: of a lookup, and of the placement of a request.

/// Result of the lookup of a reference: an id in a request that names state, such as a response. The names are fixed: metric
/// label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupResult {
    /// The reference belongs to the key, or to the key's group.
    Own,
    /// The reference belongs to another owner.
    Foreign,
    /// No replica learned the reference, or the entry has expired.
    Unknown,
    /// The store could not be read.
    LookupFailed,
}

impl LookupResult {
    /// All results that the lookup of a reference can have.
    pub const ALL: [Self; 4] = [Self::Own, Self::Foreign, Self::Unknown, Self::LookupFailed];

    /// The fixed name of the result of a lookup, such as `own` or `foreign`: metric label `result`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
            Self::LookupFailed => "cannot_tell",
        }
    }
}

/// How affinity placed a request that refers to state: for example, on the account that holds the state. The names are fixed:
/// metric label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlacementResult {
    /// The request was sent to the account that holds the state.
    Pinned,
    /// No account is known for any reference of the request: the request was routed as if it had no references.
    Free,
    /// The request names state that does not exist for its key.
    Refused,
    /// Tidegate cannot know now whether the state exists.
    LookupFailed,
    /// The request names state in several accounts.
    Conflict,
    /// The account of the state is no longer configured.
    Lost,
    /// The upstream refuses every credential of the state's account now.
    Unavailable,
    /// The request was sent to another account, without the parts that only the account of the state understands. The same
    /// request may also have been counted as pinned before.
    Stripped,
}

impl PlacementResult {
    /// All results that the placement of a request can have.
    pub const ALL: [Self; 8] = [
        Self::Pinned,
        Self::Free,
        Self::Refused,
        Self::LookupFailed,
        Self::Conflict,
        Self::Lost,
        Self::Unavailable,
        Self::Stripped,
    ];

    /// The fixed name of the result of a placement, such as `pinned` or `free`: metric label `result`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Free => "free",
            Self::Refused => "refused",
            Self::LookupFailed => "cannot_tell",
            Self::Conflict => "conflict",
            Self::Lost => "lost",
            Self::Unavailable => "unavailable",
            Self::Stripped => "stripped",
        }
    }
}
