//! Result of a poll for a background response.

/// Result of one poll: Tidegate asks the provider whether a background response has ended. The names are fixed: metric label.
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
    /// All results that the poll of a background response can have.
    pub const ALL: [Self; 4] = [Self::Over, Self::UnderWay, Self::Gone, Self::Failed];

    /// The fixed name of the result of a poll for a background response, such as `over`: metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::UnderWay => "under_way",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}
