//! The counts that an answer told, and what they mean in each provider's dialect.
//!
//! Of each field the largest count that was told is kept: some streams repeat what was used so far, and some end with zeros.

use crate::domain::usage::{MAX_TOKENS, ServiceTier, Usage};

/// A field that an answer tells, whatever its dialect calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageField {
    /// `prompt_tokens`
    Prompt,
    /// `input_tokens`
    Input,
    /// Input tokens from the cache, a part of the input.
    Cached,
    /// Input tokens that the cache did not have (`DeepSeek`).
    Missed,
    /// `cache_read_input_tokens` (Anthropic)
    Read,
    /// Input tokens written to the cache, for whatever time.
    Written,
    /// The same, for 5 minutes.
    Written5m,
    /// The same, for an hour.
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
    /// What the call costs, in the provider's currency.
    Cost,
    /// The same in units of 10^-10 US dollars (xAI).
    CostTicks,
}

/// How many fields there are.
const FIELDS: usize = UsageField::CostTicks as usize + 1;

/// No call costs so much of any currency, and none has so many seconds of audio.
const MOST: f64 = 1_000_000.0;

/// What an answer told.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedUsage {
    counts: [Option<u64>; FIELDS],
    /// The tier that was told last: the first events of a stream repeat what was asked for.
    tier: Option<ServiceTier>,
    /// Something was told since it was asked last.
    is_new: bool,
    /// Nothing more is taken.
    is_closed: bool,
}

impl ReportedUsage {
    /// The event that ends the response told its tokens: nothing behind it counts.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether something was told since this was asked last.
    pub(super) fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// A count as it stands in the answer: a whole number, a float, or either as a string. What is none of these, or cannot be
    /// true, counts as not told.
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

    /// `service_tier`.
    pub(super) fn tier(&mut self, name: &str) {
        self.is_new = true;
        self.tier = match name {
            // The standard price, by the names of OpenAI, Anthropic and Groq.
            "" | "auto" | "default" | "standard" | "on_demand" => None,
            "flex" => Some(ServiceTier::Flex),
            "priority" => Some(ServiceTier::Priority),
            "batch" => Some(ServiceTier::Batch),
            _ => Some(ServiceTier::Other),
        };
    }

    /// What it means. `searches` = calls of the web search tool that the answer holds.
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
            // xAI tells reasoning beside the output: the total is the sum of all three.
            let all = input.unwrap_or_default() + visible + hidden;
            if hidden > visible || total == Some(all) {
                output = Some(visible + hidden);
            }
        }
        if let (Some(read), Some(made), Some(total)) = (input, output, total)
            && total > read + made
        {
            // Gemini counts its thoughts in the total only.
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
            told_cost: told(UsageField::Cost).max(told(UsageField::CostTicks)),
        }
    }

    /// All input. Anthropic tells what the cache read and wrote beside the input, also where a chat API passes that on.
    fn input(&self, cached: Option<u64>, written: Option<u64>) -> Option<u64> {
        let told = |field: UsageField| self.counts[field as usize];
        let (prompt, native) = (told(UsageField::Prompt), told(UsageField::Input));
        let missed = told(UsageField::Missed).map(|missed| missed + cached.unwrap_or_default());
        let input = prompt.max(native).max(missed)?;
        let beside = cached.unwrap_or_default() + written.unwrap_or_default();
        let anthropic = told(UsageField::Read).max(told(UsageField::Written)).is_some();
        let all = input + beside;
        let is_beside = match told(UsageField::Total) {
            // A part is never larger than the whole.
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
