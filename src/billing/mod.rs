//! What a request costs: the price of a model at an upstream, one currency in another, the days and months of budgets.

mod official;

use std::{collections::HashMap, sync::Arc};

use self::official::OfficialPrices;
use crate::{
    config::{self, Config, Unpriced},
    domain::{money::Exchange, price::Tariff},
};

/// All prices of a configuration.
#[derive(Debug)]
pub struct Prices {
    /// By the indices of the configuration's upstreams.
    upstreams: Vec<UpstreamPrices>,
    exchange: Exchange,
    unpriced: Unpriced,
}

#[derive(Debug, Default)]
struct UpstreamPrices {
    names: HashMap<Arc<str>, DatedPrices>,
    /// The names in small letters, each with one of `names` that is written so.
    folded: HashMap<String, Arc<str>>,
    /// Beginnings after which anything may follow, the longest first.
    beginnings: Vec<(Arc<str>, DatedPrices)>,
    official: Option<OfficialPrices>,
}

impl UpstreamPrices {
    /// Puts in order what was added.
    fn arrange(&mut self) {
        self.beginnings.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        // Of several names that differ in letter case alone, it is always the same.
        let mut names: Vec<_> = self.names.keys().collect();
        names.sort_unstable();
        self.folded = names.into_iter().map(|name| (name.to_ascii_lowercase(), Arc::clone(name))).collect();
    }
}

/// Prices of one model with the moments from which they hold, the latest first.
#[derive(Debug, Default)]
struct DatedPrices(Vec<(u64, Tariff)>);

impl DatedPrices {
    fn at(&self, now: u64) -> Option<Tariff> {
        self.0.iter().find(|(from, _)| *from <= now).map(|(_, price)| price.clone())
    }
}

impl Prices {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let official = |upstream: &config::Upstream| upstream.official_prices.map(OfficialPrices::new);
        let mut upstreams: Vec<UpstreamPrices> = config
            .upstreams
            .iter()
            .map(|upstream| UpstreamPrices { official: official(upstream), ..UpstreamPrices::default() })
            .collect();
        for config::ModelPrice { upstream, model, from, price } in &config.prices {
            let Some(of) = upstreams.get_mut(*upstream) else { continue };
            let dated = match model.strip_suffix('*') {
                None => of.names.entry(Arc::clone(model)).or_default(),
                Some(beginning) => {
                    let place = of.beginnings.iter().position(|(known, _)| **known == *beginning);
                    let place = place.unwrap_or_else(|| {
                        of.beginnings.push((beginning.into(), DatedPrices::default()));
                        of.beginnings.len() - 1
                    });
                    let Some((_, dated)) = of.beginnings.get_mut(place) else { continue };
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

    /// What the upstream with this index bills for its model `model`, for a request begun at `now` (milliseconds since
    /// 1970-01-01 UTC); none where that is not known. The exact name comes first, then the same name in other letter case, as many
    /// providers read names so and a client must not get the price of a wildcard by it, then the longest wildcard.
    pub fn price(&self, upstream: usize, model: &str, now: u64) -> Option<Tariff> {
        let of = self.upstreams.get(upstream)?;
        let own = || of.names.get(model)?.at(now);
        let folded = || of.names.get(of.folded.get(&model.to_ascii_lowercase())?)?.at(now);
        let begins = |beginning: &str| {
            model.as_bytes().get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning.as_bytes()))
        };
        let alike = || of.beginnings.iter().find(|(beginning, _)| begins(beginning))?.1.at(now);
        own().or_else(folded).or_else(alike).or_else(|| of.official.as_ref()?.price(model, now))
    }

    /// Whether every model at this upstream whose name begins so has a price by `[[prices]]` alone.
    pub fn cover(&self, upstream: usize, beginning: &str, now: u64) -> bool {
        let of = self.upstreams.get(upstream);
        of.is_some_and(|of| {
            let mut covering = of.beginnings.iter().filter(|(known, _)| beginning.starts_with(&**known));
            covering.any(|(_, dated)| dated.at(now).is_some())
        })
    }

    /// What becomes of a model without a price, of a key with a budget.
    pub fn unpriced(&self) -> Unpriced {
        self.unpriced
    }

    /// How currencies are exchanged.
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
        let mut of = UpstreamPrices::default();
        for (model, from, input) in prices {
            let dated = match model.strip_suffix('*') {
                None => of.names.entry((*model).into()).or_default(),
                Some(beginning) => {
                    of.beginnings.push((beginning.into(), DatedPrices::default()));
                    &mut of.beginnings.last_mut().unwrap().1
                }
            };
            dated.0.insert(0, (*from, price(*input)));
        }
        of.arrange();
        Prices { upstreams: vec![of], exchange: Exchange::default(), unpriced: Unpriced::Refuse }
    }

    #[test]
    fn the_exact_name_then_the_longest_beginning_and_the_latest_that_has_begun() {
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
        for (beginning, now, covers) in [("gpt-", 0, true), ("gpt-4", 0, true), ("gpt", 49, false), ("", 50, true)] {
            assert_eq!(prices.cover(0, beginning, now), covers, "{beginning} at {now}");
        }
    }

    #[test]
    fn official_prices_are_in_dollars_and_a_part_of_them_is_billed() {
        let (whole, part) = (OfficialPrices::new(UNIT), OfficialPrices::new(UNIT / 5 * 4));
        let now = 1_790_000_000_000;
        let tariff = whole.price("gpt-4o", now).unwrap();
        let known = tariff.base;
        // What OpenAI has asked for it since 2024: $2.50, $1.25 from the cache, $10.
        let expected = (Currency::Usd, 2_500_000_000, 1_250_000_000, 10_000_000_000, 10_000_000_000);
        assert_eq!((known.currency, known.input, known.cached, known.output, known.reasoning), expected);
        assert_eq!(part.price("gpt-4o", now).unwrap().base.input, 2_000_000_000);
        assert_eq!(whole.price("nobody-knows-this-one", now), None);
        assert_eq!(whole.price("gpt-4o", now), Some(tariff), "the second time it is remembered");
    }

    /// 2026-11-30: the table has service tiers from October on.
    const NOW: u64 = 1_796_000_000_000;

    /// Cents, so that the table below can be read.
    const CENT: u64 = UNIT / 100;

    #[test]
    fn official_prices_rise_with_the_input_and_differ_by_service_tier() {
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
        // The table lists text prices alone: audio would cost sixteen times as much.
        let preview = official.price("gpt-4o-audio-preview", NOW).unwrap().base;
        assert_eq!([preview.input_audio, preview.output_audio], [None, None]);
        let whisper = official.price("whisper-1", NOW).unwrap().base;
        assert_eq!(whisper.per_audio_second, Some(UNIT / 10_000), "0.006 dollars a minute");
        let claude = official.price("claude-sonnet-4-5", NOW).unwrap().base;
        assert_eq!([claude.cache_write, claude.cache_write_1h], [Some(375 * CENT), Some(600 * CENT)]);
        assert_eq!(claude.per_web_search, Some(CENT));
        let half = OfficialPrices::new(UNIT / 2).price("claude-sonnet-4-5", NOW).unwrap().base;
        assert_eq!(half.per_web_search, Some(CENT / 2), "a part of everything is billed");
    }
}
