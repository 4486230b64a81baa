//! What an upstream bills for a model.
//!
//! A [`Tariff`] is all that an upstream bills for a model: a standard [`Price`], and further ones for long inputs and for
//! service tiers. [`Tariff::bill`] chooses the one price that a request is billed with, and computes the cost.

mod counts;
mod part;

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

pub use part::{Part, Parts};

use self::counts::{Counts, RATES};
use super::{
    money::{Currency, MOST, UNIT, decimal},
    usage::{ServiceTier, Usage},
};

/// Tokens that prices are per.
const PER: u128 = 1_000_000;

/// Nano-units per million tokens of each kind, and per request, call and second. `None` = this part has no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price {
    /// Of all the numbers here.
    pub currency: Currency,
    /// Input tokens of text that no cache had.
    pub input: u64,
    /// Input tokens from a cache.
    pub cached: u64,
    /// Output tokens of text that the client sees.
    pub output: u64,
    /// Reasoning tokens, which are a part of the output.
    pub reasoning: u64,
    /// Each request.
    pub per_call: u64,
    /// Input tokens written to a cache for 5 minutes.
    pub cache_write: Option<u64>,
    /// Input tokens written to a cache for 1 hour.
    pub cache_write_1h: Option<u64>,
    /// Input tokens of audio.
    pub input_audio: Option<u64>,
    /// Input tokens of images.
    pub input_image: Option<u64>,
    /// Output tokens of audio.
    pub output_audio: Option<u64>,
    /// Output tokens of images.
    pub output_image: Option<u64>,
    /// Input tokens of the image generation tool.
    pub image_tool_input: Option<u64>,
    /// Output tokens of the image generation tool.
    pub image_tool_output: Option<u64>,
    /// Each call of the web search tool.
    pub per_web_search: Option<u64>,
    /// Each second of audio.
    pub per_audio_second: Option<u64>,
}

/// Where in a [`Tariff`] a further price holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PriceStep {
    /// For answers of this service tier; none = standard.
    pub tier: Option<ServiceTier>,
    /// For inputs of more tokens than this; 0 = for all.
    pub above: u64,
    /// The price of the whole request.
    pub price: Price,
}

/// All that an upstream bills for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// The standard price.
    pub base: Price,
    /// What differs from it; none for most models.
    steps: Option<Arc<[PriceStep]>>,
}

/// What a request is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The price that holds for it.
    pub price: Price,
    /// Nano-units of the price's currency, without the parts that have no price; at most [`MOST`].
    pub cost: u64,
    /// Parts that were told and have no price.
    pub unpriced: Parts,
}

impl From<Price> for Tariff {
    fn from(base: Price) -> Self {
        Self { base, steps: None }
    }
}

impl Tariff {
    /// A standard price and what differs from it.
    pub fn new(base: Price, steps: Vec<PriceStep>) -> Self {
        Self { base, steps: (!steps.is_empty()).then(|| steps.into()) }
    }

    /// What differs from the standard price.
    pub fn steps(&self) -> &[PriceStep] {
        self.steps.as_deref().unwrap_or_default()
    }

    /// What is billed for this usage.
    ///
    /// A part that was told and has no price is charged like the part that it is nearest to, at least as a lower bound:
    /// cache writes, audio and images like text. Web searches and seconds of audio without a price are charged with
    /// nothing. A service tier without a price is charged with the standard price: that is an upper bound for `flex` and
    /// `batch`, and may be too low for `priority`.
    pub fn bill(&self, usage: &Usage) -> Bill {
        let counts = Counts::of(usage);
        let mut price = self.at(usage.tier, counts.input);
        let mut unpriced = Parts::default();
        if price.is_none()
            && let Some(tier) = usage.tier
        {
            unpriced.insert(Part::of(tier));
            price = self.at(None, counts.input);
        }
        let price = price.unwrap_or(self.base);
        let cost = price.bill(&counts, &mut unpriced);
        // What is billed by the call, or is free, has the same price whatever the answer tells.
        let unpriced = if self.bills_parts() { unpriced } else { Parts::default() };
        Bill { price, cost, unpriced }
    }

    /// What this usage costs, in nano-units, without the parts that have no price.
    pub fn cost(&self, usage: &Usage) -> u64 {
        self.bill(usage).cost
    }

    /// Whether more than the request itself costs anything.
    pub fn bills_parts(&self) -> bool {
        let bills = |price: &Price| {
            let [input, cached, output, reasoning, _, more @ ..] = price.rates();
            [input, cached, output, reasoning].into_iter().chain(more).flatten().any(|rate| rate > 0)
        };
        bills(&self.base) || self.steps().iter().any(|step| bills(&step.price))
    }

    /// The price for this tier and size of input; none where the tier has no price.
    fn at(&self, tier: Option<ServiceTier>, input: u64) -> Option<Price> {
        let base = tier.is_none().then_some(self.base);
        let steps = self.steps().iter().filter(|step| step.tier == tier && (step.above == 0 || step.above < input));
        steps.max_by_key(|step| step.above).map(|step| step.price).or(base)
    }

    /// The whole tariff as text, for rows whose usage is told later. [`read`](Self::read) reads it.
    pub fn written(&self) -> String {
        let mut text = self.base.currency.name().to_owned();
        let base = PriceStep { tier: None, above: 0, price: self.base };
        for PriceStep { tier, above, price } in std::iter::once(&base).chain(self.steps()) {
            // Writing to a string cannot fail.
            let _ = write!(text, ";{}:{above}:", tier.map_or("", ServiceTier::name));
            let rates = price.rates().map(|rate| rate.map_or_else(String::new, |rate| rate.to_string()));
            text.push_str(rates.join(",").trim_end_matches(','));
        }
        text
    }

    /// Reads what [`written`](Self::written) wrote.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let currency = Currency::named(parts.next()?)?;
        let step = |text: &str| {
            let [tier, above, rates] = text.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
            let tier = if tier.is_empty() { None } else { Some(ServiceTier::named(tier)?) };
            let mut numbers = [None; RATES];
            let mut places = numbers.iter_mut();
            for rate in rates.split(',') {
                let place = places.next()?;
                *place = if rate.is_empty() { None } else { Some(rate.parse().ok()?) };
            }
            Some(PriceStep { tier, above: above.parse().ok()?, price: Price::from_rates(currency, numbers) })
        };
        let base = step(parts.next()?)?.price;
        Some(Self::new(base, parts.map(step).collect::<Option<_>>()?))
    }
}

impl fmt::Display for Tariff {
    /// For people: `CNY 1 in, 0.5 cached, 2 out, 3 reasoning a million; 0 a request`, and what differs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        for PriceStep { tier, above, price } in self.steps() {
            f.write_str("; ")?;
            if let Some(tier) = tier {
                write!(f, "{} ", tier.name())?;
            }
            if *above > 0 {
                write!(f, "above {above} input tokens ")?;
            }
            write!(f, "{} in, {} cached, {} out", decimal(price.input), decimal(price.cached), decimal(price.output))?;
        }
        Ok(())
    }
}

impl fmt::Display for Price {
    /// For people: `CNY 1 in, 0.5 cached, 2 out, 3 reasoning a million; 0 a request`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [input, cached, output, reasoning, per_call] =
            [self.input, self.cached, self.output, self.reasoning, self.per_call].map(decimal);
        let name = self.currency.name();
        write!(f, "{name} {input} in, {cached} cached, {output} out, {reasoning} reasoning")?;
        let [.., cw, cw1h, ia, ii, oa, oi, iti, ito, web, second] = self.rates();
        let named = [
            (cw, "cache write"),
            (cw1h, "cache write for 1 h"),
            (ia, "audio in"),
            (ii, "images in"),
            (oa, "audio out"),
            (oi, "images out"),
            (iti, "image tool in"),
            (ito, "image tool out"),
        ];
        for (rate, name) in named {
            if let Some(rate) = rate {
                write!(f, ", {} {name}", decimal(rate))?;
            }
        }
        write!(f, " a million; {per_call} a request")?;
        for (rate, name) in [(web, "a web search"), (second, "a second of audio")] {
            if let Some(rate) = rate {
                write!(f, ", {} {name}", decimal(rate))?;
            }
        }
        Ok(())
    }
}

impl Price {
    /// Nothing is billed: for prices of which only some numbers are written.
    pub const fn free(currency: Currency) -> Self {
        Self {
            currency,
            input: 0,
            cached: 0,
            output: 0,
            reasoning: 0,
            per_call: 0,
            cache_write: None,
            cache_write_1h: None,
            input_audio: None,
            input_image: None,
            output_audio: None,
            output_image: None,
            image_tool_input: None,
            image_tool_output: None,
            per_web_search: None,
            per_audio_second: None,
        }
    }

    /// All numbers in one order: those that every price has, then those that may be missing.
    fn rates(&self) -> [Option<u64>; RATES] {
        [
            Some(self.input),
            Some(self.cached),
            Some(self.output),
            Some(self.reasoning),
            Some(self.per_call),
            self.cache_write,
            self.cache_write_1h,
            self.input_audio,
            self.input_image,
            self.output_audio,
            self.output_image,
            self.image_tool_input,
            self.image_tool_output,
            self.per_web_search,
            self.per_audio_second,
        ]
    }

    fn from_rates(currency: Currency, rates: [Option<u64>; RATES]) -> Self {
        let [input, cached, output, reasoning, per_call, more @ ..] = rates;
        let [input, cached, output, reasoning, per_call] =
            [input, cached, output, reasoning, per_call].map(Option::unwrap_or_default);
        Self { input, cached, output, reasoning, per_call, ..Self::free(currency) }.with_more(more)
    }

    /// The numbers that may be missing, in one order: journals hold their places in this list.
    pub fn more(&self) -> [Option<u64>; RATES - 5] {
        let [_, _, _, _, _, more @ ..] = self.rates();
        more
    }

    /// The same price with these numbers, in the order of [`more`](Self::more).
    pub fn with_more(self, more: [Option<u64>; RATES - 5]) -> Self {
        let [
            cache_write,
            cache_write_1h,
            input_audio,
            input_image,
            output_audio,
            output_image,
            image_tool_input,
            image_tool_output,
            per_web_search,
            per_audio_second,
        ] = more;
        Self {
            cache_write,
            cache_write_1h,
            input_audio,
            input_image,
            output_audio,
            output_image,
            image_tool_input,
            image_tool_output,
            per_web_search,
            per_audio_second,
            ..self
        }
    }

    /// The numbers that may be missing, as `cache_write=3.75,per_web_search=0.01`; none where all are.
    pub fn written_more(&self) -> Option<String> {
        let parts = Part::ALL.into_iter().zip(self.more());
        let written = parts.filter_map(|(part, rate)| Some(format!("{}={}", part.setting()?, decimal(rate?))));
        Some(written.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty())
    }

    /// The price times `factor`, in billionths, rounded down: all of it.
    pub fn part(&self, factor: u64) -> Self {
        let part = |rate: u64| u64::try_from(u128::from(rate) * u128::from(factor) / u128::from(UNIT)).unwrap_or(MOST);
        Self::from_rates(self.currency, self.rates().map(|rate| rate.map(part)))
    }

    /// The price of a service tier: tokens cost `factor` times as much, in billionths, rounded to the nearest. Requests, calls
    /// of tools and seconds of audio cost the same in each tier.
    pub fn times(&self, factor: u64) -> Self {
        let mut rates = self.rates();
        for (nth, rate) in rates.iter_mut().enumerate() {
            if nth != 4 && nth < RATES - 2 {
                *rate = rate.map(|rate| scaled(rate, factor, UNIT));
            }
        }
        Self::from_rates(self.currency, rates)
    }

    /// The cost, in nano-units, rounded once to the nearest; parts that were used and have no price are noted.
    fn bill(&self, counts: &Counts, unpriced: &mut Parts) -> u64 {
        let [input, cached, output, reasoning, _, write, write_1h, in_audio, in_image, out_audio, out_image, ..] =
            self.rates();
        let [.., tool_input, tool_output, per_search, per_second] = self.rates();
        // What a part is charged with that has no price of its own.
        let rates = [
            input,
            cached,
            output,
            reasoning,
            None,
            write.or(input),
            write_1h.or(write).or(input),
            in_audio.or(input),
            in_image.or(input),
            out_audio.or(output),
            out_image.or(output),
            tool_input.or(in_image).or(input),
            tool_output.or(out_image).or(output),
        ];
        let product = |count: u64, rate: Option<u64>| u128::from(count).saturating_mul(rate.unwrap_or_default().into());
        let tokens = counts.parts.iter().zip(rates).map(|(count, rate)| product(*count, rate));
        let [.., searches, audio_ms] = counts.parts;
        // A second has a thousand milliseconds, and the sum is in millionths.
        let audio = product(audio_ms, per_second).saturating_mul(1000);
        let millionths = tokens.chain([audio]).fold(0u128, u128::saturating_add);
        let cost = (millionths.saturating_add(PER / 2) / PER)
            .saturating_add(product(searches, per_search))
            .saturating_add(self.per_call.into());
        for ((part, count), rate) in Part::ALL.into_iter().zip(counts.parts.iter().skip(5)).zip(self.more()) {
            // A provider bills audio by tokens or by time: where it told tokens, the time only informs.
            let by_tokens = part == Part::AudioSeconds && counts.tokens;
            if *count > 0 && rate.is_none() && !by_tokens {
                unpriced.insert(part);
            }
        }
        u64::try_from(cost).unwrap_or(MOST).min(MOST)
    }
}

/// `number` times `factor` by `by`, rounded to the nearest, and at most [`MOST`].
pub fn scaled(number: u64, factor: u64, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    let product = u128::from(number) * u128::from(factor);
    u64::try_from((product + by / 2) / by).unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests;
