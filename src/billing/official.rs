//! List prices: the prices of the makers of models, in dollars, from a built-in table. Some resellers bill a fraction of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use genai_prices::{Calculator, PriceRequest, Usage, UsageKey};

use crate::domain::{
    money::{Currency, UNIT},
    price::{Price, PriceStep, Tariff},
    usage::ServiceTier,
};

/// Makers of models, in the order of the lookup. The table also has resellers, whose own prices are not used.
const MAKERS: [&str; 9] =
    ["openai", "anthropic", "google", "deepseek", "x-ai", "moonshotai", "minimax", "mistral", "cohere"];

/// Input tokens of a short request: below the first price step of every model.
const SHORT_INPUT: u64 = 1000;

/// Input tokens of a long request: above the last price step of every model.
const LONG_INPUT: u64 = 100_000_000;

/// The most price steps that are searched for one model. Models have one or two.
const MAX_STEPS: usize = 4;

/// The most model names in the cache. Where a route accepts all names, clients can invent names without end.
const MAX_CACHED: usize = 1000;

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// Token prices are per this many tokens.
const MILLION: f64 = 1_000_000.0;

/// Service tiers with the key and the value that the table uses for each.
const TIERS: [(ServiceTier, &str, &str); 3] = [
    (ServiceTier::Flex, "service_tier", "flex"),
    (ServiceTier::Priority, "service_tier", "priority"),
    (ServiceTier::Batch, "processing", "batch"),
];

/// The list prices of the makers of models, from a built-in table, with the fraction of them that an upstream bills.
#[derive(Debug)]
pub(super) struct OfficialPrices {
    /// The fraction of the list prices, in billionths.
    factor: u64,
    cache: Mutex<PricesOfTheDay>,
}

/// Cache of the prices of one day, because list prices may change every day.
#[derive(Debug, Default)]
struct PricesOfTheDay {
    day: u64,
    prices: HashMap<Box<str>, Option<Tariff>>,
}

impl OfficialPrices {
    /// Makes the list prices of models for an upstream that bills `factor` (in billionths) of them.
    pub(super) fn new(factor: u64) -> Self {
        Self { factor, cache: Mutex::default() }
    }

    /// The list prices of this model at `now`, in milliseconds since 1970-01-01 UTC. None where the table does not have the model.
    pub(super) fn price(&self, model: &str, now: u64) -> Option<Tariff> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.day != now / DAY {
            *cache = PricesOfTheDay { day: now / DAY, prices: HashMap::new() };
        }
        if let Some(price) = cache.prices.get(model) {
            return price.clone();
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
        let price = MAKERS
            .into_iter()
            .find_map(|maker| OfficialPriceQuery { model, maker, at, tier: None }.tariff(self.factor));
        if cache.prices.len() < MAX_CACHED {
            cache.prices.insert(model.into(), price.clone());
        }
        price
    }
}

/// Converts dollars to nano-dollars. Prices in the table have few digits, so rounding to the billionth restores the exact price.
fn nano(dollars: f64) -> Option<u64> {
    let nano = (dollars * UNIT as f64).round();
    (nano.is_finite() && nano >= 0.0).then_some(nano as u64)
}

/// One lookup in the table: a model of a maker, at a time and in a service tier.
#[derive(Clone, Copy)]
struct OfficialPriceQuery<'a> {
    model: &'a str,
    maker: &'static str,
    at: SystemTime,
    tier: Option<(&'static str, &'static str)>,
}

impl OfficialPriceQuery<'_> {
    /// The tariff of this maker for the model. None where the maker has no such model.
    fn tariff(self, factor: u64) -> Option<Tariff> {
        let standard = self.price(SHORT_INPUT)?;
        let mut steps: Vec<PriceStep> = self.steps(None);
        for (tier, key, value) in TIERS {
            let query = OfficialPriceQuery { tier: Some((key, value)), ..self };
            // For a tier without a price, the table answers with the standard price.
            let Some(price) = query.price(SHORT_INPUT).filter(|price| *price != standard) else { continue };
            steps.push(PriceStep { tier: Some(tier), above: 0, price });
            steps.extend(query.steps(Some(tier)));
        }
        let fraction = |price: Price| price.fraction(factor);
        let steps = steps.into_iter().map(|step| PriceStep { price: fraction(step.price), ..step }).collect();
        Some(Tariff::new(fraction(standard), steps))
    }

    /// The price steps by the size of the input. The table does not list the steps: a binary search finds them. All prices of a
    /// model change at the same sizes, so the search compares the price of input only.
    fn steps(self, tier: Option<ServiceTier>) -> Vec<PriceStep> {
        let (mut steps, mut from) = (Vec::new(), SHORT_INPUT);
        let Some(last) = self.input(LONG_INPUT) else { return steps };
        while let Some(price) = self.input(from).filter(|price| *price != last)
            && steps.len() < MAX_STEPS
        {
            // The search ends with the last size at this price, and the first size at another price.
            let (mut below, mut above) = (from, LONG_INPUT);
            while above - below > 1 {
                let middle = below + (above - below) / 2;
                if self.input(middle) == Some(price) { below = middle } else { above = middle }
            }
            let Some(price) = self.price(above) else { return steps };
            steps.push(PriceStep { tier, above: below, price });
            from = above;
        }
        steps
    }

    /// Nano-dollars per million input tokens, for a request with this number of input tokens.
    fn input(self, tokens: u64) -> Option<u64> {
        let tokens = tokens as f64;
        nano(self.dollars(&[(UsageKey::INPUT_TOKENS, tokens)])? / tokens * MILLION)
    }

    /// The price of a request with this number of input tokens.
    fn price(self, tokens: u64) -> Option<Price> {
        let input = self.input(tokens)?;
        let all_input = (UsageKey::INPUT_TOKENS, tokens as f64);
        let input_cost = self.dollars(std::slice::from_ref(&all_input))?;
        // The extra dollars per million tokens of these kinds, measured with SHORT_INPUT tokens of them. The usage includes the
        // whole input, because prices depend on its size.
        let extra_cost = |keys: &[UsageKey]| {
            let kinds = keys.iter().map(|key| (key.clone(), SHORT_INPUT as f64));
            let usage: Vec<_> = std::iter::once(all_input.clone()).chain(kinds).collect();
            Some((self.dollars(&usage)? - input_cost) / SHORT_INPUT as f64 * MILLION)
        };
        let of_input =
            |keys: &[UsageKey]| extra_cost(keys).and_then(|dollars| nano(input as f64 / UNIT as f64 + dollars));
        let of_output = |keys: &[UsageKey]| extra_cost(keys).and_then(nano);
        let output = of_output(&[UsageKey::OUTPUT_TOKENS])?;
        let cached = of_input(&[UsageKey::CACHE_READ_TOKENS]).unwrap_or(input);
        // The table charges a kind without a price as text. Cache writes and audio never cost the same as text, so an equal price
        // means that the table has none.
        let cache_write = of_input(&[UsageKey::CACHE_WRITE_TOKENS]).filter(|price| *price != input);
        let cache_write_1h = of_input(&[UsageKey::CACHE_WRITE_TOKENS, UsageKey::CACHE_WRITE_1H_TOKENS])
            .filter(|price| Some(*price) != cache_write && *price != input);
        let input_audio = of_input(&[UsageKey::INPUT_AUDIO_TOKENS]).filter(|price| *price != input);
        let output_audio =
            of_output(&[UsageKey::OUTPUT_TOKENS, UsageKey::OUTPUT_AUDIO_TOKENS]).filter(|price| *price != output);
        let per_web_search = self.dollars(&[(UsageKey::WEB_SEARCHES, 1.0)]).and_then(nano);
        // Audio models are billed by the second; the table has prices per hour.
        let hour = [(UsageKey::AUDIO_SECONDS, 3600.0), (UsageKey::INPUT_AUDIO_SECONDS, 3600.0)];
        let per_audio_second = self.dollars(&hour).and_then(|dollars| nano(dollars / 3600.0));
        let positive = |price: &u64| *price > 0;
        Some(Price {
            input,
            cached,
            output,
            reasoning: output,
            cache_write,
            cache_write_1h,
            input_audio,
            output_audio,
            // Where the table has no price for images, their makers bill images as text.
            input_image: of_input(&[UsageKey::INPUT_IMAGE_TOKENS]),
            output_image: of_output(&[UsageKey::OUTPUT_TOKENS, UsageKey::OUTPUT_IMAGE_TOKENS]),
            per_web_search: per_web_search.filter(positive),
            per_audio_second: per_audio_second.filter(positive),
            ..Price::free(Currency::Usd)
        })
    }

    fn dollars(self, usage: &[(UsageKey, f64)]) -> Option<f64> {
        let usage: Usage = usage.iter().cloned().collect();
        let mut request = PriceRequest::new(self.model, &usage).with_provider_id(self.maker).with_timestamp(self.at);
        if let Some((key, value)) = self.tier {
            request = request.with_price_context(key, value);
        }
        Calculator::bundled().calculate(&request).ok().map(|calculated| calculated.total_price)
    }
}
