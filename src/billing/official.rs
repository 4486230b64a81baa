//! What the makers of models ask for them themselves, in dollars, from a built-in table: a part of it is what some resellers bill.

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

/// Those who make models, in the order in which a name is looked up: others sell them on, at prices of their own.
const MAKERS: [&str; 9] =
    ["openai", "anthropic", "google", "deepseek", "x-ai", "moonshotai", "minimax", "mistral", "cohere"];

/// Input tokens of a short request: below the first step of every model.
const SHORT: u64 = 1000;

/// Input tokens of a long request: above the last step of every model.
const LONG: u64 = 100_000_000;

/// Steps of one model that are looked for: models have one or two.
const MOST_STEPS: usize = 4;

/// Names of models that are remembered. Clients may make up any where a route takes all names.
const REMEMBERED: usize = 1000;

const DAY: u64 = 86_400_000;

/// Tokens that prices are per.
const MILLION: f64 = 1_000_000.0;

/// The service tiers of the table, each with the words that it has for them.
const TIERS: [(ServiceTier, &str, &str); 3] = [
    (ServiceTier::Flex, "service_tier", "flex"),
    (ServiceTier::Priority, "service_tier", "priority"),
    (ServiceTier::Batch, "processing", "batch"),
];

/// The table, and which part of it is billed.
#[derive(Debug)]
pub(super) struct OfficialPrices {
    /// In billionths.
    factor: u64,
    known: Mutex<PricesOfTheDay>,
}

/// What was looked up on a day: prices change by the day.
#[derive(Debug, Default)]
struct PricesOfTheDay {
    day: u64,
    prices: HashMap<Box<str>, Option<Tariff>>,
}

impl OfficialPrices {
    /// With this part of it, in billionths.
    pub(super) fn new(factor: u64) -> Self {
        Self { factor, known: Mutex::default() }
    }

    pub(super) fn price(&self, model: &str, now: u64) -> Option<Tariff> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.day != now / DAY {
            *known = PricesOfTheDay { day: now / DAY, prices: HashMap::new() };
        }
        if let Some(price) = known.prices.get(model) {
            return price.clone();
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
        let price = MAKERS
            .into_iter()
            .find_map(|maker| OfficialPriceQuery { model, maker, at, tier: None }.tariff(self.factor));
        if known.prices.len() < REMEMBERED {
            known.prices.insert(model.into(), price.clone());
        }
        price
    }
}

/// Nano-dollars. The table has prices with few digits: rounding to the billionth gives back what was written in it.
fn nano(dollars: f64) -> Option<u64> {
    let nano = (dollars * UNIT as f64).round();
    (nano.is_finite() && nano >= 0.0).then_some(nano as u64)
}

/// What the table is asked for.
#[derive(Clone, Copy)]
struct OfficialPriceQuery<'a> {
    model: &'a str,
    maker: &'static str,
    at: SystemTime,
    tier: Option<(&'static str, &'static str)>,
}

impl OfficialPriceQuery<'_> {
    /// All that this maker asks for the model; none where it has no such model.
    fn tariff(self, factor: u64) -> Option<Tariff> {
        let standard = self.price(SHORT)?;
        let mut steps: Vec<PriceStep> = self.steps(None);
        for (tier, key, value) in TIERS {
            let asked = OfficialPriceQuery { tier: Some((key, value)), ..self };
            // Where the table knows nothing of a tier, it answers with the standard price.
            let Some(price) = asked.price(SHORT).filter(|price| *price != standard) else { continue };
            steps.push(PriceStep { tier: Some(tier), above: 0, price });
            steps.extend(asked.steps(Some(tier)));
        }
        let part = |price: Price| price.part(factor);
        let steps = steps.into_iter().map(|step| PriceStep { price: part(step.price), ..step }).collect();
        Some(Tariff::new(part(standard), steps))
    }

    /// The sizes of input above which other prices hold. The table does not list them: they are found by halving. All of a
    /// model's prices change at the same sizes, so it is enough to look at that of input.
    fn steps(self, tier: Option<ServiceTier>) -> Vec<PriceStep> {
        let (mut steps, mut from) = (Vec::new(), SHORT);
        let Some(last) = self.input(LONG) else { return steps };
        while let Some(price) = self.input(from).filter(|price| *price != last)
            && steps.len() < MOST_STEPS
        {
            // The last size with this price, and the first one with another.
            let (mut below, mut above) = (from, LONG);
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

    /// Nano-dollars for a million input tokens, of which so many are asked for.
    fn input(self, tokens: u64) -> Option<u64> {
        let tokens = tokens as f64;
        nano(self.dollars(&[(UsageKey::INPUT_TOKENS, tokens)])? / tokens * MILLION)
    }

    /// The price of a request with so many input tokens.
    fn price(self, tokens: u64) -> Option<Price> {
        let input = self.input(tokens)?;
        let all = (UsageKey::INPUT_TOKENS, tokens as f64);
        let without = self.dollars(std::slice::from_ref(&all))?;
        // What a thousand tokens of these kinds cost more. The rest of the input is there as well: prices depend on its size.
        let more = |keys: &[UsageKey]| {
            let kinds = keys.iter().map(|key| (key.clone(), SHORT as f64));
            let usage: Vec<_> = std::iter::once(all.clone()).chain(kinds).collect();
            Some((self.dollars(&usage)? - without) / SHORT as f64 * MILLION)
        };
        let of_input = |keys: &[UsageKey]| more(keys).and_then(|dollars| nano(input as f64 / UNIT as f64 + dollars));
        let of_output = |keys: &[UsageKey]| more(keys).and_then(nano);
        let output = of_output(&[UsageKey::OUTPUT_TOKENS])?;
        let cached = of_input(&[UsageKey::CACHE_READ_TOKENS]).unwrap_or(input);
        // The table charges a kind that it has no price for like text. Writing to a cache and audio never cost the same.
        let cache_write = of_input(&[UsageKey::CACHE_WRITE_TOKENS]).filter(|price| *price != input);
        let cache_write_1h = of_input(&[UsageKey::CACHE_WRITE_TOKENS, UsageKey::CACHE_WRITE_1H_TOKENS])
            .filter(|price| Some(*price) != cache_write && *price != input);
        let input_audio = of_input(&[UsageKey::INPUT_AUDIO_TOKENS]).filter(|price| *price != input);
        let output_audio =
            of_output(&[UsageKey::OUTPUT_TOKENS, UsageKey::OUTPUT_AUDIO_TOKENS]).filter(|price| *price != output);
        let per_web_search = self.dollars(&[(UsageKey::WEB_SEARCHES, 1.0)]).and_then(nano);
        // Models of audio are billed by the second, in the table by the hour.
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
            // Images are priced like text where the table has no price for them: that is how their makers bill them.
            input_image: of_input(&[UsageKey::INPUT_IMAGE_TOKENS]),
            output_image: of_output(&[UsageKey::OUTPUT_TOKENS, UsageKey::OUTPUT_IMAGE_TOKENS]),
            per_web_search: per_web_search.filter(positive),
            per_audio_second: per_audio_second.filter(positive),
            ..Price::free(Currency::Usd)
        })
    }

    fn dollars(self, usage: &[(UsageKey, f64)]) -> Option<f64> {
        let usage: Usage = usage.iter().cloned().collect();
        let mut asked = PriceRequest::new(self.model, &usage).with_provider_id(self.maker).with_timestamp(self.at);
        if let Some((key, value)) = self.tier {
            asked = asked.with_price_context(key, value);
        }
        Calculator::bundled().calculate(&asked).ok().map(|calculated| calculated.total_price)
    }
}
