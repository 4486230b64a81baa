//! Token counts as a provider reported them.

/// The most tokens of a kind that a response can have. What models read and write at once is a few million at most; who tells
/// a hundred times that is wrong, and would spoil estimates, limits and budgets with it.
pub const MOST_TOKENS: u64 = 100_000_000;

/// What one response used. A count that the provider did not send is `None`, never a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, the cached, written, audio and image ones included.
    pub input: Option<u64>,
    /// Input tokens read from the provider's prompt cache.
    pub cached: Option<u64>,
    /// Input tokens written to the cache for 5 minutes, or for a time that was not told.
    pub cache_write: Option<u64>,
    /// Input tokens written to the cache for 1 hour.
    pub cache_write_1h: Option<u64>,
    /// Input tokens of audio.
    pub input_audio: Option<u64>,
    /// Input tokens of images.
    pub input_image: Option<u64>,
    /// Output tokens, the reasoning, audio and image ones included.
    pub output: Option<u64>,
    /// Output tokens of reasoning.
    pub reasoning: Option<u64>,
    /// Output tokens of audio.
    pub output_audio: Option<u64>,
    /// Output tokens of images.
    pub output_image: Option<u64>,
    /// `total_tokens`.
    pub total: Option<u64>,
    /// Input tokens that the image generation tool used (`tool_usage.image_gen`), which `input` does not hold.
    pub image_tool_input: Option<u64>,
    /// Output tokens that the image generation tool used, which `output` does not hold.
    pub image_tool_output: Option<u64>,
    /// Calls of the hosted web search tool.
    pub web_searches: Option<u64>,
    /// Milliseconds of audio that the provider bills by time (`usage.seconds`, `duration`).
    pub audio_ms: Option<u64>,
    /// The service tier that the answer names.
    pub tier: Option<ServiceTier>,
    /// What the provider says that the call cost (`usage.cost`), in nano units of the provider's currency.
    pub told_cost: Option<u64>,
}

/// Service tier of an answer (`service_tier`). `auto` and `default` are the standard price, and are told as `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// Cheaper and slower.
    Flex,
    /// Dearer and faster.
    Priority,
    /// A batch of requests, answered within a day.
    Batch,
    /// A tier with another name.
    Other,
}

impl ServiceTier {
    /// All of them. Journals hold their places in this list: the list only grows, at its end.
    pub const ALL: [Self; 4] = [Self::Flex, Self::Priority, Self::Batch, Self::Other];

    /// Its fixed name: column `service_tier`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Batch => "batch",
            Self::Other => "other",
        }
    }

    /// The tier of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

impl Usage {
    /// Whether no token, tool call, second or cost was reported, but zeros at most.
    pub fn is_nothing(&self) -> bool {
        let counts = [
            self.input,
            self.output,
            self.total,
            self.image_tool_input,
            self.image_tool_output,
            self.web_searches,
            self.audio_ms,
            self.told_cost,
        ];
        counts.into_iter().flatten().all(|count| count == 0)
    }

    /// True while no use was reported. A tier and a cost alone are none.
    pub fn is_empty(&self) -> bool {
        Self { tier: None, told_cost: None, ..*self } == Self::default()
    }
}

/// What a call by a response's id showed of its tokens: that it is over, and what it used where that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolledUsage(Option<Usage>);

impl PolledUsage {
    /// Of a response that is over. Tokens of which only a part is told are none: no cost comes of them.
    pub fn new(usage: Usage) -> Self {
        Self(Some(usage).filter(|usage| usage.input.is_some() && usage.output.is_some()))
    }

    /// The tokens, input and output among them; none where they were not told.
    pub fn usage(self) -> Option<Usage> {
        self.0
    }
}

/// What an answer tells of reasoning that is billed and does not pass as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// It has an item of reasoning, and the reasoning itself is not in it.
    pub thinks: bool,
    /// Tokens of the encrypted reasoning, by its size; none where there is no such content.
    pub sealed: Option<u64>,
}

/// Output tokens of reasoning that are charged where an answer shows that there is reasoning, the tokens are not told, and no
/// answer of the key and model told any before.
pub const THOUGHT: u64 = 8192;

/// Tokens a second that a model makes, before an answer of the key and model tells it. Large models make so many.
pub const PACE: u64 = 50;

/// What the answers of a key and model had of late, beside the text that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit {
    /// Output tokens that did not pass as text, of answers that showed no item of reasoning, as chats.
    pub hidden: u64,
    /// The same, of answers that showed one.
    pub thought: Option<u64>,
    /// Output tokens a second.
    pub pace: Option<u64>,
}

/// What one answer that told its tokens adds to the [`Habit`] of its key and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// It showed an item of reasoning.
    pub thinks: bool,
    /// Its output tokens that did not pass as text.
    pub hidden: u64,
    /// Its output tokens a second, where it was long enough to tell.
    pub pace: Option<u64>,
}

/// What a request will probably use, before anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageEstimate {
    /// Tokens of its input.
    pub input: u64,
    /// Tokens of its output.
    pub output: u64,
}

impl UsageEstimate {
    /// All of them.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// As if it had been reported.
    pub fn usage(self) -> Usage {
        Usage { input: Some(self.input), output: Some(self.output), ..Usage::default() }
    }
}
