//! Token counts as a provider reported them.

/// The most tokens of a kind that a response can have. What models read and write at once is a few million at most; who tells
/// a hundred times that is wrong, and would spoil estimates, limits and budgets with it.
pub const MOST_TOKENS: u64 = 100_000_000;

/// Tokens of one response. A count that the provider did not send is `None`, never a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// `input_tokens`, the cached ones included.
    pub input: Option<u64>,
    /// `input_tokens_details.cached_tokens`.
    pub cached: Option<u64>,
    /// `output_tokens`, the reasoning ones included.
    pub output: Option<u64>,
    /// `output_tokens_details.reasoning_tokens`.
    pub reasoning: Option<u64>,
    /// `total_tokens`.
    pub total: Option<u64>,
}

impl Usage {
    /// True while nothing was reported.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a call by a response's id showed of its tokens: that it is over, and what it used where that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(Option<Usage>);

impl Shown {
    /// Of a response that is over. Tokens of which only a part is told are none: no cost comes of them.
    pub fn new(usage: Usage) -> Self {
        Self(Some(usage).filter(|usage| usage.input.is_some() && usage.output.is_some()))
    }

    /// The tokens, input and output among them; none where they were not told.
    pub fn usage(self) -> Option<Usage> {
        self.0
    }
}

/// What a request will probably use, before anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of its input.
    pub input: u64,
    /// Tokens of its output.
    pub output: u64,
}

impl Estimate {
    /// All of them.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// As if it had been reported.
    pub fn usage(self) -> Usage {
        Usage { input: Some(self.input), output: Some(self.output), ..Usage::default() }
    }
}
