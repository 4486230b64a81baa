//! Parts of the usage of an answer that may have no price.

use crate::domain::usage::ServiceTier;

/// A part of a reported usage that may have no price, such as audio input or web searches. The names are fixed: column
/// `unpriced_parts`, metric label, log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Tokens written to a cache for 5 minutes.
    CacheWrite,
    /// Tokens written to a cache for 1 hour.
    CacheWrite1h,
    /// Input tokens of audio.
    InputAudio,
    /// Input tokens of images.
    InputImage,
    /// Output tokens of audio.
    OutputAudio,
    /// Output tokens of images.
    OutputImage,
    /// Input tokens of the image generation tool.
    ImageToolInput,
    /// Output tokens of the image generation tool.
    ImageToolOutput,
    /// Calls of the web search tool.
    WebSearches,
    /// Audio that is billed by time.
    AudioSeconds,
    /// The service tier `flex`.
    FlexTier,
    /// The service tier `priority`.
    PriorityTier,
    /// The service tier `batch`.
    BatchTier,
    /// A service tier with another name.
    OtherTier,
}

impl Part {
    /// All parts of a usage that may have no price. The journal stores the position in this list: add new parts at the end only.
    pub const ALL: [Self; 14] = [
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::InputAudio,
        Self::InputImage,
        Self::OutputAudio,
        Self::OutputImage,
        Self::ImageToolInput,
        Self::ImageToolOutput,
        Self::WebSearches,
        Self::AudioSeconds,
        Self::FlexTier,
        Self::PriorityTier,
        Self::BatchTier,
        Self::OtherTier,
    ];

    /// The fixed name of a part of the usage: column `unpriced_parts`, metric label, log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CacheWrite => "cache_write",
            Self::CacheWrite1h => "cache_write_1h",
            Self::InputAudio => "input_audio",
            Self::InputImage => "input_image",
            Self::OutputAudio => "output_audio",
            Self::OutputImage => "output_image",
            Self::ImageToolInput => "image_tool_input",
            Self::ImageToolOutput => "image_tool_output",
            Self::WebSearches => "web_searches",
            Self::AudioSeconds => "audio_seconds",
            Self::FlexTier => "flex_tier",
            Self::PriorityTier => "priority_tier",
            Self::BatchTier => "batch_tier",
            Self::OtherTier => "other_tier",
        }
    }

    /// The setting of `[[prices]]` that gives a part of the usage its price, such as `per_web_search`. None where there is no
    /// such setting.
    pub const fn setting(self) -> Option<&'static str> {
        match self {
            Self::WebSearches => Some("per_web_search"),
            Self::AudioSeconds => Some("per_audio_second"),
            Self::FlexTier => Some("flex_factor"),
            Self::PriorityTier => Some("priority_factor"),
            Self::BatchTier => Some("batch_factor"),
            Self::OtherTier => None,
            _ => Some(self.name()),
        }
    }

    /// The part of the usage that reports a service tier without a price.
    pub(super) const fn of(tier: ServiceTier) -> Self {
        match tier {
            ServiceTier::Flex => Self::FlexTier,
            ServiceTier::Priority => Self::PriorityTier,
            ServiceTier::Batch => Self::BatchTier,
            ServiceTier::Other => Self::OtherTier,
        }
    }
}

/// A set of [`Part`]s of a usage: the parts that a request used and that have no price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parts(u16);

impl Parts {
    /// Adds a part of the usage to the set of parts without a price.
    pub fn insert(&mut self, part: Part) {
        self.0 |= 1 << part as u16;
    }

    /// Whether this set of parts without a price is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Iterates over the parts of the usage in this set.
    pub fn iter(self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(move |part| self.0 & (1 << *part as u16) != 0)
    }

    /// The set of parts as a number with one bit per part, for the journal.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The set of parts of the usage that these bits stand for. None where a bit belongs to no part.
    pub fn from_bits(bits: u64) -> Option<Self> {
        u16::try_from(bits).ok().filter(|bits| bits >> Part::ALL.len() == 0).map(Self)
    }

    /// The names of the parts in this set, with commas between them. None where the set is empty.
    pub fn names(self) -> Option<String> {
        (!self.is_empty()).then(|| self.iter().map(Part::name).collect::<Vec<_>>().join(","))
    }
}
