//! What the makers of models ask for them themselves, in dollars, from a built-in table: a part of it is what some resellers bill.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use genai_prices::{Calculator, PriceRequest, Usage, UsageKey};

use crate::domain::{
    money::{Currency, UNIT},
    price::Price,
};

/// Those who make models, in the order in which a name is looked up: others sell them on, at prices of their own.
const MAKERS: [&str; 9] =
    ["openai", "anthropic", "google", "deepseek", "x-ai", "moonshotai", "minimax", "mistral", "cohere"];

/// Tokens that the table is asked for: few, as some prices rise with the length of a request.
const TOKENS: f64 = 1000.0;

/// Names of models that are remembered. Clients may make up any where a route takes all names.
const REMEMBERED: usize = 1000;

const DAY: u64 = 86_400_000;

/// The table, and which part of it is billed.
#[derive(Debug)]
pub(super) struct Official {
    /// In billionths.
    factor: u64,
    known: Mutex<Known>,
}

/// What was looked up on a day: prices change by the day.
#[derive(Debug, Default)]
struct Known {
    day: u64,
    prices: HashMap<Box<str>, Option<Price>>,
}

impl Official {
    /// With this part of it, in billionths.
    pub(super) fn new(factor: u64) -> Self {
        Self { factor, known: Mutex::default() }
    }

    pub(super) fn price(&self, model: &str, now: u64) -> Option<Price> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.day != now / DAY {
            *known = Known { day: now / DAY, prices: HashMap::new() };
        }
        if let Some(price) = known.prices.get(model) {
            return *price;
        }
        let price = self.look_up(model, now);
        if known.prices.len() < REMEMBERED {
            known.prices.insert(model.into(), price);
        }
        price
    }

    fn look_up(&self, model: &str, now: u64) -> Option<Price> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
        MAKERS.into_iter().find_map(|maker| {
            let million = |usage: Usage| {
                let asked = PriceRequest::new(model, &usage).with_provider_id(maker).with_timestamp(at);
                let dollars = Calculator::bundled().calculate(&asked).ok()?.total_price * (1_000_000.0 / TOKENS);
                // A table of prices per million: rounding to the billionth gives back what was written in it.
                let nano = (dollars * UNIT as f64).round();
                (nano.is_finite() && nano >= 0.0).then_some(nano as u64)
            };
            let input = million(Usage::from([(UsageKey::INPUT_TOKENS, TOKENS)]))?;
            let output = million(Usage::from([(UsageKey::OUTPUT_TOKENS, TOKENS)]))?;
            let from_cache = Usage::from([(UsageKey::INPUT_TOKENS, TOKENS), (UsageKey::CACHE_READ_TOKENS, TOKENS)]);
            let cached = million(from_cache).unwrap_or(input);
            let [input, cached, output] = [input, cached, output].map(|price| self.part(price));
            Some(Price { currency: Currency::Usd, input, cached, output, reasoning: output, per_call: 0 })
        })
    }

    fn part(&self, price: u64) -> u64 {
        let part = u128::from(price) * u128::from(self.factor) / u128::from(UNIT);
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}
