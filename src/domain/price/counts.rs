//! How much of each part an answer used.

use crate::domain::usage::Usage;

/// Numbers of a price.
pub(super) const RATES: usize = 15;

/// How much of each part was used. No token is in two parts.
pub(super) struct Counts {
    /// Input tokens in all.
    pub(super) input: u64,
    /// In the order of the price's rates.
    pub(super) parts: [u64; RATES],
    /// Tokens were told.
    pub(super) tokens: bool,
}

impl Counts {
    /// A count that is larger than the one that it is part of is believed: the sum is never less than a part. Audio and
    /// images are in what no cache had, as far as there is any: providers do not tell how much of them came from a cache.
    pub(super) fn of(usage: &Usage) -> Self {
        let count = Option::unwrap_or_default;
        let [cached, write, write_1h] = [usage.cached, usage.cache_write, usage.cache_write_1h].map(count);
        let [audio, image] = [usage.input_audio, usage.input_image].map(count);
        let stored = cached.saturating_add(write).saturating_add(write_1h);
        let input = count(usage.input).max(stored).max(audio.saturating_add(image));
        let fresh = input - stored;
        // Audio first: it costs more than images wherever both have a price.
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
        Self { input, parts, tokens: input > 0 || output > 0 }
    }
}
