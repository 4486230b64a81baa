//! Token counts as a provider reported them.

/// The most tokens of one kind that Tidegate believes in a reported usage. Models read and write a few million tokens at most. A
/// provider that reports a hundred times as many is wrong: such a count would spoil estimates, limits and budgets.
pub const MAX_TOKENS: u64 = 100_000_000;

/// Usage of one response as the provider reported it: tokens of each kind and other billed parts. A count that the provider did
/// not report is `None`, never an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, including the tokens read from and written to a cache, and those of audio and images.
    pub input: Option<u64>,
    /// Input tokens read from the provider's prompt cache.
    pub cached: Option<u64>,
    /// Input tokens written to the cache for 5 minutes, or for a time that the provider did not report.
    pub cache_write: Option<u64>,
    /// Input tokens written to the cache for 1 hour.
    pub cache_write_1h: Option<u64>,
    /// Input tokens of audio.
    pub input_audio: Option<u64>,
    /// Input tokens of images.
    pub input_image: Option<u64>,
    /// Output tokens, including those of reasoning, audio and images.
    pub output: Option<u64>,
    /// Output tokens of reasoning.
    pub reasoning: Option<u64>,
    /// Output tokens of audio.
    pub output_audio: Option<u64>,
    /// Output tokens of images.
    pub output_image: Option<u64>,
    /// Total tokens (`total_tokens`).
    pub total: Option<u64>,
    /// Input tokens of the image generation tool (`tool_usage.image_gen`). `input` does not include them.
    pub image_tool_input: Option<u64>,
    /// Output tokens of the image generation tool. `output` does not include them.
    pub image_tool_output: Option<u64>,
    /// Calls of the hosted web search tool.
    pub web_searches: Option<u64>,
    /// Milliseconds of audio that the provider bills by time (`usage.seconds`, `duration`).
    pub audio_ms: Option<u64>,
    /// The service tier that the answer names.
    pub tier: Option<ServiceTier>,
    /// The cost that the provider reported (`usage.cost`), in nano-units of the provider's currency.
    pub reported_cost: Option<u64>,
}

/// Service tier of an answer (`service_tier`), which changes the price. `auto` and `default` have the standard price, and are
/// read as `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// `flex`: cheaper and slower.
    Flex,
    /// `priority`: more expensive and faster.
    Priority,
    /// A batch of requests, answered within a day.
    Batch,
    /// A tier with another name.
    Other,
}

impl ServiceTier {
    /// All service tiers other than the standard tier. The journal stores the position in this list: add new tiers at the end only.
    pub const ALL: [Self; 4] = [Self::Flex, Self::Priority, Self::Batch, Self::Other];

    /// The fixed name of the service tier of an answer, such as `flex`: column `service_tier`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Batch => "batch",
            Self::Other => "other",
        }
    }

    /// The service tier with this name, such as `flex`. None for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

impl Usage {
    /// Whether an answer used nothing: every reported count of tokens, tool calls, milliseconds and cost is zero, or none was
    /// reported.
    pub fn is_nothing(&self) -> bool {
        let counts = [
            self.input,
            self.output,
            self.total,
            self.image_tool_input,
            self.image_tool_output,
            self.web_searches,
            self.audio_ms,
            self.reported_cost,
        ];
        counts.into_iter().flatten().all(|count| count == 0)
    }

    /// Whether the provider reported no count for an answer. A service tier and a cost alone are no counts.
    pub fn is_empty(&self) -> bool {
        Self { tier: None, reported_cost: None, ..*self } == Self::default()
    }
}

/// Usage of a finished background response, as a later request for the response by its id showed it. Empty where the provider
/// reported no usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolledUsage(Option<Usage>);

impl PolledUsage {
    /// Wraps the usage of a finished background response. Without both input and output tokens the usage counts as not reported,
    /// because it gives no cost.
    pub fn new(usage: Usage) -> Self {
        Self(Some(usage).filter(|usage| usage.input.is_some() && usage.output.is_some()))
    }

    /// The usage of the finished background response, with input and output tokens. None where the provider did not report both.
    pub fn usage(self) -> Option<Usage> {
        self.0
    }
}

/// What an answer shows of billed reasoning that does not pass as text, such as encrypted reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HiddenReasoning {
    /// Whether the answer has an item of reasoning without the text of the reasoning.
    pub thinks: bool,
    /// Tokens of the encrypted reasoning, estimated from its size. None without encrypted reasoning.
    pub sealed: Option<u64>,
}

/// Estimate of reasoning in output tokens: 8,192. Charged when an answer shows reasoning and reports no tokens, and no earlier
/// answer of the key and model reported any.
pub const DEFAULT_REASONING_TOKENS: u64 = 8192;

/// Assumed speed of a model in output tokens per second, until an answer of the key and model shows the real speed. Typical for
/// large models.
pub const DEFAULT_TOKENS_PER_SECOND: u64 = 50;

/// Averages of the recent answers to one key for one model: output tokens that did not pass as text, and tokens per second. Used
/// to estimate answers without reported tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerAverages {
    /// Output tokens that did not pass as text, in answers without an item of reasoning (chats).
    pub hidden: u64,
    /// The same, in answers with an item of reasoning.
    pub reasoning: Option<u64>,
    /// Output tokens per second.
    pub tokens_per_second: Option<u64>,
}

/// What one answer with reported tokens adds to the averages ([`AnswerAverages`]) of its key and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerSample {
    /// Whether the answer had an item of reasoning.
    pub thinks: bool,
    /// Output tokens that did not pass as text.
    pub hidden: u64,
    /// Output tokens per second, if the answer was long enough to measure.
    pub tokens_per_second: Option<u64>,
}

/// Input and output tokens that Tidegate expects a request to use. The estimate is made before the request is sent upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageEstimate {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

impl UsageEstimate {
    /// Estimated tokens of a request: input and output tokens together.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The estimated tokens of a request in the form of a reported usage, so that a price can be applied.
    pub fn usage(self) -> Usage {
        Usage { input: Some(self.input), output: Some(self.output), ..Usage::default() }
    }
}
