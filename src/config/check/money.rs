//! `[money]`, `[[prices]]` and budgets.

use std::sync::Arc;

use http::StatusCode;
use jiff::{civil::Date, tz::TimeZone};

use super::{Check, upstream::UpstreamNames};
use crate::{
    config::{
        document::Path,
        raw,
        types::{ModelPrice, MoneySettings, Unpriced},
    },
    domain::{
        money::{Budget, Currency, UNIT, nano},
        price::{Price, PriceStep, Tariff, scaled},
        usage::ServiceTier,
    },
};

/// A million units for a million tokens, or for a dollar. A larger number is a typing error, and products of it would overflow.
const HIGHEST: u64 = 1_000_000 * UNIT;

/// The first warning is early enough to act. The second comes when Tidegate begins to refuse requests.
const WARN_AT: [u64; 2] = [UNIT / 10 * 8, UNIT];

/// No service tier costs a hundred times as much as another.
const MOST_FACTOR: u64 = 100 * UNIT;

impl Check<'_> {
    /// Checks the table `[money]` of the configuration: time zone, exchange rate, and how budgets are counted.
    pub(super) fn money(&mut self, raw: &raw::Money) -> MoneySettings {
        let path = Path::default().key("money");
        let time_zone = TimeZone::get(&raw.time_zone).unwrap_or_else(|_| {
            let help = "write a name of the IANA database, such as \"Asia/Shanghai\" or \"UTC\"";
            self.fault(&path.key("time_zone"), "no time zone has this name", help);
            TimeZone::UTC
        });
        let rate_path = path.key("cny_per_usd");
        let cny_per_usd = raw.cny_per_usd.as_ref().and_then(|rate| self.decimal(rate, &rate_path));
        if cny_per_usd == Some(0) {
            self.fault(&rate_path, "`cny_per_usd` is 0", "leave it out to keep the two currencies apart");
        }
        let unpriced = match raw.unpriced {
            raw::Unpriced::Refuse => Unpriced::Refuse,
            raw::Unpriced::Allow => Unpriced::Allow,
        };
        let budget_status = match raw.budget_status {
            402 => StatusCode::PAYMENT_REQUIRED,
            429 => StatusCode::TOO_MANY_REQUESTS,
            _ => {
                let help = "write 429, which OpenAI uses, or 402, which more clients take as final";
                self.fault(&path.key("budget_status"), "`budget_status` is neither 429 nor 402", help);
                StatusCode::TOO_MANY_REQUESTS
            }
        };
        let warn_at = match &raw.warn_at {
            Some(written) => self.thresholds(written, &path.key("warn_at")),
            None => WARN_AT.into(),
        };
        MoneySettings { time_zone, cny_per_usd, unpriced, budget_status, warn_at }
    }

    /// Parses the setting `warn_at`: fractions of a budget, returned in billionths.
    pub(super) fn thresholds(&mut self, written: &[raw::Decimal], path: &Path) -> Arc<[u64]> {
        let mut thresholds = Vec::with_capacity(written.len());
        for (i, text) in written.iter().enumerate() {
            match nano(&text.0) {
                Some(part @ 1..=UNIT) => thresholds.push(part),
                _ => {
                    let help = "write for example 0.8 for 80 percent of the budget; 1 is the whole budget";
                    self.fault(&path.index(i), "a threshold in `warn_at` must be above 0 and at most 1", help);
                }
            }
        }
        thresholds.into()
    }

    /// Checks the `[[prices]]` blocks of the configuration. Returns what upstreams bill for their models.
    pub(super) fn prices(
        &mut self,
        raw: Vec<raw::Price>,
        upstreams: &UpstreamNames,
        money: &MoneySettings,
    ) -> Vec<ModelPrice> {
        let mut prices: Vec<ModelPrice> = Vec::new();
        for (i, raw) in raw.into_iter().enumerate() {
            let path = Path::default().key("prices").index(i);
            let from = raw.from.as_deref().map_or(0, |day| self.day(day, money, &path.key("from")));
            let price = self.price(&raw, &path);
            let upstream = raw.upstream.and_then(|name| self.upstream_index(upstreams, &name, &path.key("upstream")));
            let Some(model) = raw.model else { continue };
            self.pattern(&model, &path.key("model"));
            // An idle upstream bills nothing, so its price is dropped.
            let (Some(upstream), Some(price)) = (upstream, price) else { continue };
            let model: Arc<str> = model.into();
            if prices.iter().any(|known| (known.upstream, &known.model, known.from) == (upstream, &model, from)) {
                let help = "give each price a first day of its own with `from`, or remove one of the prices";
                self.fault(&path, "this model already has a price with the same first day", help);
            }
            prices.push(ModelPrice { upstream, model, from, price });
        }
        if money.cny_per_usd.is_none() {
            let official = upstreams.live.iter().any(|upstream| upstream.official_prices.is_some());
            self.billed = prices.iter().map(|price| price.price.base.currency).collect();
            self.billed.extend(official.then_some(Currency::Usd));
        }
        prices
    }

    fn price(&mut self, raw: &raw::Price, path: &Path) -> Option<Tariff> {
        let mut read = |value: &Option<raw::Decimal>, name: &str| {
            value.as_ref().map(|value| self.decimal(value, &path.key(name)).unwrap_or_default())
        };
        let (input, output) = (read(&raw.input, "input"), read(&raw.output, "output"));
        let (cached, reasoning) = (read(&raw.cached_input, "cached_input"), read(&raw.reasoning, "reasoning"));
        let per_call = read(&raw.per_call, "per_call");
        let price = Price {
            input: input.unwrap_or_default(),
            cached: cached.or(input).unwrap_or_default(),
            output: output.unwrap_or_default(),
            reasoning: reasoning.or(output).unwrap_or_default(),
            per_call: per_call.unwrap_or_default(),
            cache_write: read(&raw.cache_write, "cache_write"),
            cache_write_1h: read(&raw.cache_write_1h, "cache_write_1h"),
            input_audio: read(&raw.input_audio, "input_audio"),
            input_image: read(&raw.input_image, "input_image"),
            output_audio: read(&raw.output_audio, "output_audio"),
            output_image: read(&raw.output_image, "output_image"),
            image_tool_input: read(&raw.image_tool_input, "image_tool_input"),
            image_tool_output: read(&raw.image_tool_output, "image_tool_output"),
            per_web_search: read(&raw.per_web_search, "per_web_search"),
            per_audio_second: read(&raw.per_audio_second, "per_audio_second"),
            ..Price::free(Currency::Usd)
        };
        if self.sound
            && input.is_none()
            && output.is_none()
            && per_call.is_none()
            && price.optional_rates().iter().all(Option::is_none)
        {
            let help = "write `input` and `output`, for a million tokens each, or `per_call`";
            self.fault(path, "this [[prices]] block has no price", help);
        } else if self.sound && input.is_some() != output.is_some() {
            let (missing, there) = if input.is_some() { ("output", "input") } else { ("input", "output") };
            let message = format!("`{missing}` is missing beside `{there}`");
            self.fault(path, message, format!("write `{missing} = 0` if nothing is billed for it"));
        }
        let long = self.long_inputs(&raw.long_input, price, input.is_some(), &path.key("long_input"));
        let mut steps = long.clone();
        let factors = [
            (ServiceTier::Flex, &raw.flex_factor, "flex_factor"),
            (ServiceTier::Priority, &raw.priority_factor, "priority_factor"),
            (ServiceTier::Batch, &raw.batch_factor, "batch_factor"),
        ];
        for (tier, factor, name) in factors {
            let Some(factor) = factor.as_ref().and_then(|factor| self.factor(factor, &path.key(name))) else {
                continue;
            };
            let base = PriceStep { tier: None, above: 0, price };
            let of_tier = std::iter::once(&base).chain(&long);
            steps.extend(of_tier.map(|step| PriceStep {
                tier: Some(tier),
                price: step.price.with_tier_factor(factor),
                ..*step
            }));
        }
        let currency = match raw.currency? {
            raw::Currency::Cny => Currency::Cny,
            raw::Currency::Usd => Currency::Usd,
        };
        steps.iter_mut().for_each(|step| step.price.currency = currency);
        Some(Tariff::new(Price { currency, ..price }, steps))
    }

    /// Returns the prices of longer inputs. A rate that is not set rises in proportion to `input` or `output`.
    fn long_inputs(&mut self, raw: &[raw::LongInput], base: Price, has_tokens: bool, path: &Path) -> Vec<PriceStep> {
        let mut steps: Vec<PriceStep> = Vec::new();
        for (i, raw) in raw.iter().enumerate() {
            let path = path.index(i);
            let mut read = |value: &Option<raw::Decimal>, name: &str| {
                value.as_ref().map(|value| self.decimal(value, &path.key(name)).unwrap_or_default())
            };
            let (input, output) = (read(&raw.input, "input"), read(&raw.output, "output"));
            let (cached, reasoning) = (read(&raw.cached_input, "cached_input"), read(&raw.reasoning, "reasoning"));
            let (Some(above), Some(input), Some(output)) = (raw.above, input, output) else { continue };
            if steps.iter().any(|step| step.above == above) {
                self.fault(
                    &path.key("above"),
                    "another `long_input` price has the same `above`",
                    "keep one of the two",
                );
            }
            if !has_tokens {
                let help = "write `input` and `output` for shorter inputs as well";
                self.fault(
                    &path,
                    "`long_input` has prices for long inputs, but the price for shorter inputs is missing",
                    help,
                );
            }
            let like_input =
                |rate: u64| if base.input == 0 { rate.max(input) } else { scaled(rate, input, base.input) };
            let like_output =
                |rate: u64| if base.output == 0 { rate.max(output) } else { scaled(rate, output, base.output) };
            let price = Price {
                input,
                cached: cached.unwrap_or_else(|| like_input(base.cached)),
                output,
                reasoning: reasoning.unwrap_or_else(|| like_output(base.reasoning)),
                cache_write: base.cache_write.map(like_input),
                cache_write_1h: base.cache_write_1h.map(like_input),
                input_audio: base.input_audio.map(like_input),
                input_image: base.input_image.map(like_input),
                output_audio: base.output_audio.map(like_output),
                output_image: base.output_image.map(like_output),
                ..base
            };
            steps.push(PriceStep { tier: None, above, price });
        }
        steps
    }

    /// Parses a multiplier of a price, in billionths.
    fn factor(&mut self, written: &raw::Decimal, path: &Path) -> Option<u64> {
        let factor = nano(&written.0).filter(|factor| (1..=MOST_FACTOR).contains(factor));
        if factor.is_none() {
            let name = path.name().unwrap_or_default().to_owned();
            let message = format!("`{name}` is not a decimal number above 0 and up to 100 with at most nine places");
            self.fault(path, message, format!("write for example `{name} = 0.5`, for half the price"));
        }
        factor
    }

    /// Parses a decimal number of the configuration, such as a price, into nano-units. Reports a fault for any other text.
    pub(super) fn decimal(&mut self, written: &raw::Decimal, path: &Path) -> Option<u64> {
        let number = nano(&written.0).filter(|number| *number <= HIGHEST);
        if number.is_none() {
            let name = path.name().unwrap_or_default().to_owned();
            let message = format!("`{name}` is not a decimal number from 0 to 1000000 with at most nine places");
            self.fault(path, message, format!("write for example `{name} = 1.75`"));
        }
        number
    }

    fn day(&mut self, day: &str, money: &MoneySettings, path: &Path) -> u64 {
        let begins = day.parse::<Date>().ok().and_then(|day| day.to_zoned(money.time_zone.clone()).ok());
        let Some(begins) = begins else {
            self.fault(path, "`from` is not a day", "write it as \"2026-11-01\"");
            return 0;
        };
        u64::try_from(begins.timestamp().as_millisecond()).unwrap_or_default()
    }

    /// Parses the setting `budgets` of a key or group. `starts_on` is the day on which budget months begin, as the file has it.
    pub(super) fn budgets(&mut self, written: &[String], starts_on: Option<u8>, path: &Path) -> Vec<Budget> {
        let mut budgets: Vec<Budget> = Vec::new();
        for (i, text) in written.iter().enumerate() {
            let path = path.index(i);
            match Budget::parse(text) {
                Ok(budget) => {
                    if budgets.iter().any(|known| known.window == budget.window) {
                        let message =
                            format!("another budget of this list also has the period {}", budget.window.name());
                        self.fault(
                            &path,
                            message,
                            "keep one of the two budgets: only the smaller budget would have an effect",
                        );
                    }
                    if let Some(other) = self.not_exchanged(budget.money.currency) {
                        let message = format!(
                            "a price is in {other} and this budget is in {}, but the exchange rate is not set",
                            budget.money.currency.name()
                        );
                        let help = "set `cny_per_usd` in [money], or write budgets and prices in one currency";
                        self.fault(&path, message, help);
                    }
                    budgets.push(budget.starting_on(starts_on.unwrap_or(1)));
                }
                Err(_) => self.fault(
                    &path,
                    "a budget must be an amount, a currency (CNY or USD) and a period (day, week, month or total)",
                    "write the budget as \"50CNY/month\" or \"2.5USD/day\"",
                ),
            }
        }
        budgets
    }

    /// Returns the currency of a price that cannot be compared with a budget in `budget`, for lack of an exchange rate.
    fn not_exchanged(&self, budget: Currency) -> Option<&'static str> {
        self.billed.iter().find(|currency| **currency != budget).map(|currency| currency.name())
    }
}
