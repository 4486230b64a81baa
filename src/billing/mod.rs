//! Prices of models at upstreams, from the configuration and from the built-in list prices, and the exchange rate.

mod official;

use std::{collections::HashMap, sync::Arc};

use self::official::OfficialPrices;
use crate::{
    config::{self, Config, Unpriced},
    domain::{money::Exchange, price::Tariff},
};

/// What upstreams bill for their models: the prices in the configuration, and built-in list prices.
#[derive(Debug)]
pub struct Prices {
    /// Prices by the index of the upstream in the configuration.
    upstreams: Vec<UpstreamPrices>,
    exchange: Exchange,
    unpriced: Unpriced,
}

#[derive(Debug, Default)]
struct UpstreamPrices {
    exact: HashMap<Arc<str>, DatedPrices>,
    /// Names in lower case, each with one name of `exact` that equals it in lower case.
    folded: HashMap<String, Arc<str>>,
    /// Prices by the prefix before `*`, the longest prefix first.
    wildcards: Vec<(Arc<str>, DatedPrices)>,
    official: Option<OfficialPrices>,
}

impl UpstreamPrices {
    /// Sorts the wildcards and builds the map of lower-case names. Call after the last price was added.
    fn arrange(&mut self) {
        self.wildcards.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        // Sorted, so that the choice among names that differ only in letter case is always the same.
        let mut names: Vec<_> = self.exact.keys().collect();
        names.sort_unstable();
        self.folded = names.into_iter().map(|name| (name.to_ascii_lowercase(), Arc::clone(name))).collect();
    }
}

/// Prices of one model with the times from which they apply, the latest first.
#[derive(Debug, Default)]
struct DatedPrices(Vec<(u64, Tariff)>);

impl DatedPrices {
    fn at(&self, now: u64) -> Option<Tariff> {
        self.0.iter().find(|(from, _)| *from <= now).map(|(_, price)| price.clone())
    }
}

impl Prices {
    /// Makes the table of what upstreams bill for their models from a configuration.
    pub fn new(config: &Config) -> Self {
        let official = |upstream: &config::Upstream| upstream.official_prices.map(OfficialPrices::new);
        let mut upstreams: Vec<UpstreamPrices> = config
            .upstreams
            .iter()
            .map(|upstream| UpstreamPrices { official: official(upstream), ..UpstreamPrices::default() })
            .collect();
        for config::ModelPrice { upstream, model, from, price } in &config.prices {
            let Some(prices) = upstreams.get_mut(*upstream) else { continue };
            let dated = match model.strip_suffix('*') {
                None => prices.exact.entry(Arc::clone(model)).or_default(),
                Some(prefix) => {
                    let index = prices.wildcards.iter().position(|(known, _)| **known == *prefix);
                    let index = index.unwrap_or_else(|| {
                        prices.wildcards.push((prefix.into(), DatedPrices::default()));
                        prices.wildcards.len() - 1
                    });
                    let Some((_, dated)) = prices.wildcards.get_mut(index) else { continue };
                    dated
                }
            };
            dated.0.push((*from, price.clone()));
            dated.0.sort_by_key(|(from, _)| std::cmp::Reverse(*from));
        }
        upstreams.iter_mut().for_each(UpstreamPrices::arrange);
        let exchange = Exchange { cny_per_usd: config.money.cny_per_usd };
        Self { upstreams, exchange, unpriced: config.money.unpriced }
    }

    /// Returns the tariff of `model` at the upstream with this index, for a request that began at `now` (milliseconds since
    /// 1970-01-01 UTC). None where no price is known.
    ///
    /// The order is: the exact name, the same name in another letter case, the longest wildcard, the list price. Many providers
    /// ignore letter case: without the second step, a client could get the price of a wildcard by another letter case.
    pub fn price(&self, upstream: usize, model: &str, now: u64) -> Option<Tariff> {
        let prices = self.upstreams.get(upstream)?;
        let exact = || prices.exact.get(model)?.at(now);
        let other_case = || prices.exact.get(prices.folded.get(&model.to_ascii_lowercase())?)?.at(now);
        let has_prefix = |prefix: &str| {
            model.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let by_wildcard = || prices.wildcards.iter().find(|(prefix, _)| has_prefix(prefix))?.1.at(now);
        exact().or_else(other_case).or_else(by_wildcard).or_else(|| prices.official.as_ref()?.price(model, now))
    }

    /// Whether a wildcard of `[[prices]]`, such as `gpt-*`, gives a price to every model name with this prefix at this upstream.
    pub fn cover_prefix(&self, upstream: usize, prefix: &str, now: u64) -> bool {
        let prices = self.upstreams.get(upstream);
        prices.is_some_and(|prices| {
            let mut covering = prices.wildcards.iter().filter(|(known, _)| prefix.starts_with(&**known));
            covering.any(|(_, dated)| dated.at(now).is_some())
        })
    }

    /// What Tidegate does if a key with a budget requests a model without a price.
    pub fn unpriced(&self) -> Unpriced {
        self.unpriced
    }

    /// The exchange rate between yuan and dollar in the configuration.
    pub fn exchange(&self) -> Exchange {
        self.exchange
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        money::{Currency, UNIT},
        price::{Price, Tariff},
        usage::{ServiceTier, Usage},
    };

    fn price(input: u64) -> Tariff {
        Price { input, ..Price::free(Currency::Cny) }.into()
    }

    fn dated(prices: &[(&str, u64, u64)]) -> Prices {
        let mut upstream = UpstreamPrices::default();
        for (model, from, input) in prices {
            let dated = match model.strip_suffix('*') {
                None => upstream.exact.entry((*model).into()).or_default(),
                Some(prefix) => {
                    upstream.wildcards.push((prefix.into(), DatedPrices::default()));
                    &mut upstream.wildcards.last_mut().unwrap().1
                }
            };
            dated.0.insert(0, (*from, price(*input)));
        }
        upstream.arrange();
        Prices { upstreams: vec![upstream], exchange: Exchange::default(), unpriced: Unpriced::Refuse }
    }

    #[test]
    fn the_exact_name_comes_before_the_longest_wildcard_and_the_latest_started_price_applies() {
        let prices = dated(&[("gpt-5", 0, 1), ("gpt-5", 100, 2), ("gpt-*", 0, 3), ("*", 50, 4)]);
        for (model, now, input) in [
            ("gpt-5", 99, Some(1)),
            ("gpt-5", 100, Some(2)),
            ("gpt-5-mini", 0, Some(3)),
            ("GPT-5", 100, Some(2)),
            ("Gpt-5", 99, Some(1)),
            ("Gpt-5-Mini", 0, Some(3)),
            ("o3", 50, Some(4)),
            ("o3", 49, None),
        ] {
            assert_eq!(prices.price(0, model, now).map(|price| price.base.input), input, "{model} at {now}");
        }
        assert_eq!(prices.price(1, "gpt-5", 0), None);
        for (prefix, now, covers) in [("gpt-", 0, true), ("gpt-4", 0, true), ("gpt", 49, false), ("", 50, true)] {
            assert_eq!(prices.cover_prefix(0, prefix, now), covers, "{prefix} at {now}");
        }
    }

    #[test]
    fn list_prices_are_in_dollars_and_a_fraction_of_them_is_billed() {
        let (whole, fraction) = (OfficialPrices::new(UNIT), OfficialPrices::new(UNIT / 5 * 4));
        let now = 1_790_000_000_000;
        let tariff = whole.price("gpt-4o", now).unwrap();
        let known = tariff.base;
        // OpenAI's price since 2024: $2.50 for input, $1.25 for cached input, $10 for output.
        let expected = (Currency::Usd, 2_500_000_000, 1_250_000_000, 10_000_000_000, 10_000_000_000);
        assert_eq!((known.currency, known.input, known.cached, known.output, known.reasoning), expected);
        assert_eq!(fraction.price("gpt-4o", now).unwrap().base.input, 2_000_000_000);
        assert_eq!(whole.price("nobody-knows-this-one", now), None);
        assert_eq!(whole.price("gpt-4o", now), Some(tariff), "the second lookup uses the cache");
    }

    /// 2026-11-30. The table has service tiers since October 2026.
    const NOW: u64 = 1_796_000_000_000;

    /// Nano-units in a cent: the table below is in cents.
    const CENT: u64 = UNIT / 100;

    #[test]
    fn list_prices_depend_on_input_size_and_service_tier() {
        let official = OfficialPrices::new(UNIT);
        // What OpenAI and Anthropic publish, in cents per million tokens.
        for (model, tier, input, expected) in [
            ("gpt-5.4", None, 272_000, [250, 1500]),
            ("gpt-5.4", None, 272_001, [500, 2250]),
            ("gpt-5.4", Some(ServiceTier::Priority), 1000, [500, 3000]),
            ("gpt-5.4", Some(ServiceTier::Flex), 1000, [125, 750]),
            ("gpt-5.4", Some(ServiceTier::Batch), 1000, [125, 750]),
            ("gemini-2.5-pro", None, 200_000, [125, 1000]),
            ("gemini-2.5-pro", None, 200_001, [250, 1500]),
            ("claude-opus-4-6", None, 1000, [500, 2500]),
            ("gpt-4o", None, 100_000_000, [250, 1000]),
        ] {
            let tariff = official.price(model, NOW).unwrap();
            let bill = tariff.bill(&Usage { input: Some(input), output: Some(1), tier, ..Usage::default() });
            let found = [bill.price.input, bill.price.output].map(|price| price / CENT);
            assert_eq!((found, bill.unpriced.names()), (expected, None), "{model} {tier:?} {input}");
        }
        let image = official.price("gpt-image-1.5", NOW).unwrap().base;
        assert_eq!([image.input_image, image.output_image], [Some(800 * CENT), Some(3200 * CENT)]);
        let audio = official.price("gpt-audio", NOW).unwrap().base;
        assert_eq!([audio.input_audio, audio.output_audio], [Some(3200 * CENT), Some(6400 * CENT)]);
        // The table has only text prices for this model. Its audio costs sixteen times as much.
        let preview = official.price("gpt-4o-audio-preview", NOW).unwrap().base;
        assert_eq!([preview.input_audio, preview.output_audio], [None, None]);
        let whisper = official.price("whisper-1", NOW).unwrap().base;
        assert_eq!(whisper.per_audio_second, Some(UNIT / 10_000), "0.006 dollars a minute");
        let claude = official.price("claude-sonnet-4-5", NOW).unwrap().base;
        assert_eq!([claude.cache_write, claude.cache_write_1h], [Some(375 * CENT), Some(600 * CENT)]);
        assert_eq!(claude.per_web_search, Some(CENT));
        let half = OfficialPrices::new(UNIT / 2).price("claude-sonnet-4-5", NOW).unwrap().base;
        assert_eq!(half.per_web_search, Some(CENT / 2), "the fraction applies to every rate");
    }
}
