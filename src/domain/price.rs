//! Prices of models at upstreams.
//!
//! A [`Tariff`] holds all prices of one model at one upstream: the standard [`Price`], and further prices for long inputs and
//! for service tiers. [`Tariff::bill`] chooses the one price that applies to a request, and computes the cost.

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

/// Token prices are per this many tokens.
const TOKENS_PER_RATE: u128 = 1_000_000;

/// One price of a model: nano-units per million tokens of each kind, per request, per web search and per second of audio. `None`
/// = this part has no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price {
    /// Currency of all rates of the price.
    pub currency: Currency,
    /// Input tokens of text that did not come from a cache.
    pub input: u64,
    /// Input tokens from a cache.
    pub cached: u64,
    /// Output tokens of text that the client gets.
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

/// A further price in the [`Tariff`] of a model: for one service tier, or for inputs above a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PriceStep {
    /// Applies to answers of this service tier; none = the standard tier.
    pub tier: Option<ServiceTier>,
    /// Applies to inputs of more tokens than this; 0 = all inputs.
    pub above: u64,
    /// The price of the whole request.
    pub price: Price,
}

/// All prices of one model at one upstream: the standard price, and prices for long inputs and service tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// The standard price.
    pub base: Price,
    /// The further prices. Most models have none.
    steps: Option<Arc<[PriceStep]>>,
}

/// What one request costs: the price that applied, the cost, and the used parts that have no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The price that applies to the request.
    pub price: Price,
    /// The cost in nano-units of the price's currency, at most [`MOST`]. [`Tariff::bill`] says how parts without a price count.
    pub cost: u64,
    /// Parts of the reported usage that have no price.
    pub unpriced: Parts,
}

impl From<Price> for Tariff {
    fn from(base: Price) -> Self {
        Self { base, steps: None }
    }
}

impl Tariff {
    /// Makes the tariff of a model from its standard price and its further prices.
    pub fn new(base: Price, steps: Vec<PriceStep>) -> Self {
        Self { base, steps: (!steps.is_empty()).then(|| steps.into()) }
    }

    /// The further prices of a model's tariff, beside its standard price: for long inputs and for service tiers.
    pub fn steps(&self) -> &[PriceStep] {
        self.steps.as_deref().unwrap_or_default()
    }

    /// Computes what a request with this usage costs under the model's tariff.
    ///
    /// A reported part without a price is charged with the rate of the most similar part, as a lower bound: cache writes, audio
    /// and images are charged as text. Web searches and seconds of audio without a price cost nothing. A service tier without a
    /// price is charged with the standard price: an upper bound for `flex` and `batch`, and perhaps too low for `priority`.
    pub fn bill(&self, usage: &Usage) -> Bill {
        let counts = Counts::of(usage);
        let mut price = self.price_for(usage.tier, counts.input);
        let mut unpriced = Parts::default();
        if price.is_none()
            && let Some(tier) = usage.tier
        {
            unpriced.insert(Part::of(tier));
            price = self.price_for(None, counts.input);
        }
        let price = price.unwrap_or(self.base);
        let cost = price.bill(&counts, &mut unpriced);
        // A free model, or a model with a price per request only, costs the same for every usage.
        let unpriced = if self.bills_parts() { unpriced } else { Parts::default() };
        Bill { price, cost, unpriced }
    }

    /// The cost of this usage under the model's tariff, in nano-units, as [`bill`](Self::bill) computes it.
    pub fn cost(&self, usage: &Usage) -> u64 {
        self.bill(usage).cost
    }

    /// Whether the model's tariff charges for usage: whether any rate other than the price per request is above zero.
    pub fn bills_parts(&self) -> bool {
        let bills = |price: &Price| {
            let [input, cached, output, reasoning, _, optional @ ..] = price.rates();
            [input, cached, output, reasoning].into_iter().chain(optional).flatten().any(|rate| rate > 0)
        };
        bills(&self.base) || self.steps().iter().any(|step| bills(&step.price))
    }

    /// The price for this service tier and this number of input tokens. None where the tier has no price.
    fn price_for(&self, tier: Option<ServiceTier>, input: u64) -> Option<Price> {
        let base = tier.is_none().then_some(self.base);
        let steps = self.steps().iter().filter(|step| step.tier == tier && (step.above == 0 || step.above < input));
        steps.max_by_key(|step| step.above).map(|step| step.price).or(base)
    }

    /// Writes the whole tariff of a model as text, for ledger rows whose usage is reported later. [`from_text`](Self::from_text)
    /// parses the text.
    pub fn to_text(&self) -> String {
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

    /// Parses the text of a model's tariff that [`to_text`](Self::to_text) wrote. None for any other text.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let currency = Currency::named(parts.next()?)?;
        let step = |text: &str| {
            let [tier, above, rates] = text.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
            let tier = if tier.is_empty() { None } else { Some(ServiceTier::named(tier)?) };
            let mut numbers = [None; RATES];
            let mut slots = numbers.iter_mut();
            for rate in rates.split(',') {
                let slot = slots.next()?;
                *slot = if rate.is_empty() { None } else { Some(rate.parse().ok()?) };
            }
            Some(PriceStep { tier, above: above.parse().ok()?, price: Price::from_rates(currency, numbers) })
        };
        let base = step(parts.next()?)?.price;
        Some(Self::new(base, parts.map(step).collect::<Option<_>>()?))
    }
}

impl fmt::Display for Tariff {
    /// For people: `CNY 1 in, 0.5 cached, 2 out, 3 reasoning per million tokens; 0 per request`, then the further prices.
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
    /// For people: `CNY 1 in, 0.5 cached, 2 out, 3 reasoning per million tokens; 0 per request`.
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
        write!(f, " per million tokens; {per_call} per request")?;
        for (rate, name) in [(web, "per web search"), (second, "per second of audio")] {
            if let Some(rate) = rate {
                write!(f, ", {} {name}", decimal(rate))?;
            }
        }
        Ok(())
    }
}

impl Price {
    /// A price of zero: all rates are zero or absent. Also the base for prices with only some rates.
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

    /// All rates in a fixed order: first the five that every price has, then the optional rates.
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
        let [input, cached, output, reasoning, per_call, optional @ ..] = rates;
        let [input, cached, output, reasoning, per_call] =
            [input, cached, output, reasoning, per_call].map(Option::unwrap_or_default);
        Self { input, cached, output, reasoning, per_call, ..Self::free(currency) }.with_optional_rates(optional)
    }

    /// The optional rates of a price, such as for audio or web searches, in a fixed order. The journal stores the position in
    /// this list.
    pub fn optional_rates(&self) -> [Option<u64>; RATES - 5] {
        let [_, _, _, _, _, optional @ ..] = self.rates();
        optional
    }

    /// The same price with these optional rates, in the order of [`optional_rates`](Self::optional_rates).
    pub fn with_optional_rates(self, rates: [Option<u64>; RATES - 5]) -> Self {
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
        ] = rates;
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

    /// The optional rates of a price as text: `cache_write=3.75,per_web_search=0.01`. None where the price has no optional rate.
    pub fn optional_rates_text(&self) -> Option<String> {
        let parts = Part::ALL.into_iter().zip(self.optional_rates());
        let written = parts.filter_map(|(part, rate)| Some(format!("{}={}", part.setting()?, decimal(rate?))));
        Some(written.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty())
    }

    /// The same price with every rate multiplied by `factor` (in billionths) and rounded down, for an upstream that charges a
    /// fraction of the official price.
    pub fn fraction(&self, factor: u64) -> Self {
        let scale = |rate: u64| u64::try_from(u128::from(rate) * u128::from(factor) / u128::from(UNIT)).unwrap_or(MOST);
        Self::from_rates(self.currency, self.rates().map(|rate| rate.map(scale)))
    }

    /// The price of a service tier, computed from the standard price. The rates of tokens are multiplied by `factor` (in
    /// billionths) and rounded to the nearest. Requests, web searches and seconds of audio cost the same in each tier.
    pub fn with_tier_factor(&self, factor: u64) -> Self {
        let mut rates = self.rates();
        for (index, rate) in rates.iter_mut().enumerate() {
            // Index 4 is the price per request; the last two rates are web searches and seconds of audio.
            if index != 4 && index < RATES - 2 {
                *rate = rate.map(|rate| scaled(rate, factor, UNIT));
            }
        }
        Self::from_rates(self.currency, rates)
    }

    /// The cost in nano-units, rounded once to the nearest. Adds used parts without a price to `unpriced`.
    fn bill(&self, counts: &Counts, unpriced: &mut Parts) -> u64 {
        let [input, cached, output, reasoning, _, write, write_1h, in_audio, in_image, out_audio, out_image, ..] =
            self.rates();
        let [.., tool_input, tool_output, per_search, per_second] = self.rates();
        // A part without a rate of its own is charged with the rate of the most similar part.
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
        // The sum is in millionths, and a second has a thousand milliseconds: a factor of a thousand is left.
        let audio = product(audio_ms, per_second).saturating_mul(1000);
        let millionths = tokens.chain([audio]).fold(0u128, u128::saturating_add);
        let cost = (millionths.saturating_add(TOKENS_PER_RATE / 2) / TOKENS_PER_RATE)
            .saturating_add(product(searches, per_search))
            .saturating_add(self.per_call.into());
        for ((part, count), rate) in Part::ALL.into_iter().zip(counts.parts.iter().skip(5)).zip(self.optional_rates()) {
            // A provider bills audio by tokens or by time. Where the provider reported tokens, it does not bill the time.
            let by_tokens = part == Part::AudioSeconds && counts.has_tokens;
            if *count > 0 && rate.is_none() && !by_tokens {
                unpriced.insert(part);
            }
        }
        u64::try_from(cost).unwrap_or(MOST).min(MOST)
    }
}

/// Scales a rate or an amount: `number` times `factor`, divided by `by`, rounded to the nearest, and at most [`MOST`].
pub fn scaled(number: u64, factor: u64, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    let product = u128::from(number) * u128::from(factor);
    u64::try_from((product + by / 2) / by).unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests;
