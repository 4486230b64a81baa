//! The counts that an answer reports, and their meaning in the dialect of each provider.
//!
//! Of each field the largest count is kept: some streams repeat the counts so far, and some end with zeros.

use crate::domain::usage::{MAX_TOKENS, ServiceTier, Usage};

/// A count in an answer, named the same for every dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageField {
    /// `prompt_tokens`
    Prompt,
    /// `input_tokens`
    Input,
    /// Input tokens from the cache. They are a part of the input.
    Cached,
    /// Input tokens that were not in the cache (`DeepSeek`).
    Missed,
    /// `cache_read_input_tokens` (Anthropic)
    Read,
    /// Input tokens written to the cache, for any time.
    Written,
    /// Input tokens written to the cache for 5 minutes.
    Written5m,
    /// Input tokens written to the cache for an hour.
    Written1h,
    InputAudio,
    InputImage,
    /// `completion_tokens`, `output_tokens`
    Output,
    Reasoning,
    OutputAudio,
    OutputImage,
    Total,
    ImageToolInput,
    ImageToolOutput,
    Searches,
    /// Seconds of audio.
    Seconds,
    /// The cost of the call, in the provider's currency.
    Cost,
    /// The cost of the call in units of 10^-10 US dollars (xAI).
    CostTicks,
}

/// The number of fields.
const FIELDS: usize = UsageField::CostTicks as usize + 1;

/// The largest plausible cost and the most plausible seconds of audio. Larger values are ignored.
const MOST: f64 = 1_000_000.0;

/// The usage that an answer reported.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedUsage {
    counts: [Option<u64>; FIELDS],
    /// The last tier in the answer. The first events of a stream only repeat the requested tier.
    tier: Option<ServiceTier>,
    /// Usage was reported since the last call of [`ReportedUsage::is_new`].
    is_new: bool,
    /// Later counts are ignored.
    is_closed: bool,
}

impl ReportedUsage {
    /// Ignores all later counts, because the event that ends the response reported its usage.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether usage was reported since the last call.
    pub(super) fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Takes a count from the text in the answer: a whole number, a float, or either as a string. Any other text and any
    /// implausible number count as not reported.
    pub(super) fn take(&mut self, field: UsageField, text: &str) {
        if self.is_closed {
            return;
        }
        let text = text.trim();
        let number = || text.parse::<f64>().ok().filter(|number| (0.0..=MOST).contains(number));
        let count = match field {
            UsageField::Seconds => number().map(|seconds| (seconds * 1000.0).round() as u64),
            UsageField::Cost => number().map(|cost| (cost * 1e9).round() as u64),
            UsageField::CostTicks => count(text, u64::MAX).map(|ticks| ticks / 10),
            _ => count(text, MAX_TOKENS),
        };
        let told = &mut self.counts[field as usize];
        *told = (*told).max(count);
        self.is_new = true;
    }

    /// Takes the value of `service_tier`.
    pub(super) fn tier(&mut self, name: &str) {
        self.is_new = true;
        self.tier = match name {
            // The names of OpenAI, Anthropic and Groq for the standard price.
            "" | "auto" | "default" | "standard" | "on_demand" => None,
            "flex" => Some(ServiceTier::Flex),
            "priority" => Some(ServiceTier::Priority),
            "batch" => Some(ServiceTier::Batch),
            _ => Some(ServiceTier::Other),
        };
    }

    /// Returns the reported usage in Tidegate's own terms. `searches` = calls of the web search tool in the answer.
    pub(super) fn usage(&self, searches: u64) -> Usage {
        let told = |field: UsageField| self.counts[field as usize];
        let sum = |parts: [Option<u64>; 2]| parts.into_iter().flatten().reduce(u64::saturating_add);
        let (cached, hour, total) = (
            told(UsageField::Cached).max(told(UsageField::Read)),
            told(UsageField::Written1h),
            told(UsageField::Total),
        );
        let written = told(UsageField::Written).max(sum([told(UsageField::Written5m), hour]));
        let (mut input, mut output) = (self.input(cached, written), told(UsageField::Output));
        let reasoning = told(UsageField::Reasoning);
        if let (Some(visible), Some(hidden)) = (output, reasoning.filter(|hidden| *hidden > 0)) {
            // xAI reports reasoning apart from the output. Its total is the sum of input, output and reasoning.
            let all = input.unwrap_or_default() + visible + hidden;
            if hidden > visible || total == Some(all) {
                output = Some(visible + hidden);
            }
        }
        if let (Some(read), Some(made), Some(total)) = (input, output, total)
            && total > read + made
        {
            // Gemini counts reasoning in the total only.
            output = Some(total - read);
        }
        if input.is_none() && output.is_some() {
            input = total.zip(output).and_then(|(total, output)| total.checked_sub(output));
        }
        Usage {
            input,
            cached,
            cache_write: written.map(|written| written.saturating_sub(hour.unwrap_or_default())),
            cache_write_1h: hour,
            input_audio: told(UsageField::InputAudio),
            input_image: told(UsageField::InputImage),
            output,
            reasoning,
            output_audio: told(UsageField::OutputAudio),
            output_image: told(UsageField::OutputImage),
            total,
            image_tool_input: told(UsageField::ImageToolInput),
            image_tool_output: told(UsageField::ImageToolOutput),
            web_searches: told(UsageField::Searches).max((searches > 0).then_some(searches)),
            audio_ms: told(UsageField::Seconds),
            tier: self.tier,
            reported_cost: told(UsageField::Cost).max(told(UsageField::CostTicks)),
        }
    }

    /// Returns all input tokens. Anthropic reports cache reads and writes apart from the input, even if a chat API passes its
    /// numbers on.
    fn input(&self, cached: Option<u64>, written: Option<u64>) -> Option<u64> {
        let told = |field: UsageField| self.counts[field as usize];
        let (prompt, native) = (told(UsageField::Prompt), told(UsageField::Input));
        let missed = told(UsageField::Missed).map(|missed| missed + cached.unwrap_or_default());
        let input = prompt.max(native).max(missed)?;
        let beside = cached.unwrap_or_default() + written.unwrap_or_default();
        let anthropic = told(UsageField::Read).max(told(UsageField::Written)).is_some();
        let all = input + beside;
        let is_beside = match told(UsageField::Total) {
            // A part cannot be larger than the whole.
            _ if beside > input => true,
            Some(total) => beside > 0 && total == all + told(UsageField::Output).unwrap_or_default(),
            None => anthropic && prompt.is_none(),
        };
        Some(if is_beside { all } else { input })
    }
}

fn count(text: &str, most: u64) -> Option<u64> {
    let count = text.parse::<u64>().ok().or_else(|| {
        let number = text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0)?;
        (number <= most as f64).then_some(number as u64)
    });
    count.filter(|count| *count <= most)
}
