//! Result of a poll for a background response.

/// Result of one poll: a request that Tidegate sends for a background response. The names are fixed: metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollOutcome {
    /// The response is over.
    Over,
    /// The response is still in progress.
    UnderWay,
    /// The provider does not have the response.
    Gone,
    /// The provider sent no usable answer.
    Failed,
}

impl PollOutcome {
    /// All results.
    pub const ALL: [Self; 4] = [Self::Over, Self::UnderWay, Self::Gone, Self::Failed];

    /// The fixed name of the result.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::UnderWay => "under_way",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}
