//! Counts of each billed part in the usage of an answer.

use crate::domain::usage::Usage;

/// Number of rates in a [`Price`](super::Price), such as those for input, output and web searches.
pub(super) const RATES: usize = 15;

/// How many units of each billed part a request used: tokens of each kind, web searches, milliseconds of audio. No token is in
/// two parts.
pub(super) struct Counts {
    /// All input tokens.
    pub(super) input: u64,
    /// Counts in the order of the price's rates.
    pub(super) parts: [u64; RATES],
    /// Whether the provider reported any tokens.
    pub(super) has_tokens: bool,
}

impl Counts {
    /// Splits a reported usage into the counts of its billed parts. Where a part is larger than its total, the total is raised to
    /// the part. Audio and image tokens are counted as not cached, as far as there are such tokens: providers do not report how
    /// many came from a cache.
    pub(super) fn of(usage: &Usage) -> Self {
        let count = Option::unwrap_or_default;
        let [cached, write, write_1h] = [usage.cached, usage.cache_write, usage.cache_write_1h].map(count);
        let [audio, image] = [usage.input_audio, usage.input_image].map(count);
        let stored = cached.saturating_add(write).saturating_add(write_1h);
        let input = count(usage.input).max(stored).max(audio.saturating_add(image));
        let fresh = input - stored;
        // Audio first: audio costs more than images wherever both have a price.
        let audio = audio.min(fresh);
        let image = image.min(fresh - audio);
        let [reasoning, out_audio, out_image] = [usage.reasoning, usage.output_audio, usage.output_image].map(count);
        let special = reasoning.saturating_add(out_audio).saturating_add(out_image);
        let output = count(usage.output).max(special);
        let [tool_input, tool_output] = [usage.image_tool_input, usage.image_tool_output].map(count);
        let parts = [
            fresh - audio - image,
            cached,
            output - special,
            reasoning,
            1,
            write,
            write_1h,
            audio,
            image,
            out_audio,
            out_image,
            tool_input,
            tool_output,
            count(usage.web_searches),
            count(usage.audio_ms),
        ];
        Self { input, parts, has_tokens: input > 0 || output > 0 }
    }
}
