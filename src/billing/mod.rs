//! What a request costs: the price of a model at an upstream, one currency in another, the days and months of budgets.

mod official;

use std::{collections::HashMap, sync::Arc};

use self::official::Official;
use crate::{
    config::{self, Config, Unpriced},
    domain::{money::Exchange, price::Price},
};

/// All prices of a configuration.
#[derive(Debug)]
pub struct Prices {
    /// By the indices of the configuration's upstreams.
    upstreams: Vec<OfUpstream>,
    exchange: Exchange,
    unpriced: Unpriced,
}

#[derive(Debug, Default)]
struct OfUpstream {
    names: HashMap<Arc<str>, Dated>,
    /// Beginnings after which anything may follow, the longest first.
    beginnings: Vec<(Arc<str>, Dated)>,
    official: Option<Official>,
}

/// Prices of one model with the moments from which they hold, the latest first.
#[derive(Debug, Default)]
struct Dated(Vec<(u64, Price)>);

impl Dated {
    fn at(&self, now: u64) -> Option<Price> {
        self.0.iter().find(|(from, _)| *from <= now).map(|(_, price)| *price)
    }
}

impl Prices {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let official = |upstream: &config::Upstream| upstream.official_prices.map(Official::new);
        let mut upstreams: Vec<OfUpstream> = config
            .upstreams
            .iter()
            .map(|upstream| OfUpstream { official: official(upstream), ..OfUpstream::default() })
            .collect();
        for config::ModelPrice { upstream, model, from, price } in &config.prices {
            let Some(of) = upstreams.get_mut(*upstream) else { continue };
            let dated = match model.strip_suffix('*') {
                None => of.names.entry(Arc::clone(model)).or_default(),
                Some(beginning) => {
                    let place = of.beginnings.iter().position(|(known, _)| **known == *beginning);
                    let place = place.unwrap_or_else(|| {
                        of.beginnings.push((beginning.into(), Dated::default()));
                        of.beginnings.len() - 1
                    });
                    let Some((_, dated)) = of.beginnings.get_mut(place) else { continue };
                    dated
                }
            };
            dated.0.push((*from, *price));
            dated.0.sort_by_key(|(from, _)| std::cmp::Reverse(*from));
        }
        for of in &mut upstreams {
            of.beginnings.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        }
        let exchange = Exchange { cny_per_usd: config.money.cny_per_usd };
        Self { upstreams, exchange, unpriced: config.money.unpriced }
    }

    /// What the upstream with this index bills for its model `model`, for a request begun at `now` (milliseconds since
    /// 1970-01-01 UTC); none where that is not known.
    pub fn price(&self, upstream: usize, model: &str, now: u64) -> Option<Price> {
        let of = self.upstreams.get(upstream)?;
        let own = || of.names.get(model)?.at(now);
        let alike = || of.beginnings.iter().find(|(beginning, _)| model.starts_with(&**beginning))?.1.at(now);
        own().or_else(alike).or_else(|| of.official.as_ref()?.price(model, now))
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
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        money::{Currency, MOST, UNIT},
        usage::Usage,
    };

    fn price(input: u64) -> Price {
        Price { currency: Currency::Cny, input, cached: input, output: input, reasoning: input, per_call: 0 }
    }

    fn dated(prices: &[(&str, u64, u64)]) -> Prices {
        let mut of = OfUpstream::default();
        for (model, from, input) in prices {
            let dated = match model.strip_suffix('*') {
                None => of.names.entry((*model).into()).or_default(),
                Some(beginning) => {
                    of.beginnings.push((beginning.into(), Dated::default()));
                    &mut of.beginnings.last_mut().unwrap().1
                }
            };
            dated.0.insert(0, (*from, price(*input)));
        }
        of.beginnings.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        Prices { upstreams: vec![of], exchange: Exchange::default(), unpriced: Unpriced::Refuse }
    }

    #[test]
    fn the_exact_name_then_the_longest_beginning_and_the_latest_that_has_begun() {
        let prices = dated(&[("gpt-5", 0, 1), ("gpt-5", 100, 2), ("gpt-*", 0, 3), ("*", 50, 4)]);
        for (model, now, input) in [
            ("gpt-5", 99, Some(1)),
            ("gpt-5", 100, Some(2)),
            ("gpt-5-mini", 0, Some(3)),
            ("o3", 50, Some(4)),
            ("o3", 49, None),
        ] {
            assert_eq!(prices.price(0, model, now).map(|price| price.input), input, "{model} at {now}");
        }
        assert_eq!(prices.price(1, "gpt-5", 0), None);
        for (beginning, now, covers) in [("gpt-", 0, true), ("gpt-4", 0, true), ("gpt", 49, false), ("", 50, true)] {
            assert_eq!(prices.cover(0, beginning, now), covers, "{beginning} at {now}");
        }
    }

    #[test]
    fn official_prices_are_in_dollars_and_a_part_of_them_is_billed() {
        let (whole, part) = (Official::new(UNIT), Official::new(UNIT / 5 * 4));
        let now = 1_790_000_000_000;
        let known = whole.price("gpt-4o", now).unwrap();
        // What OpenAI has asked for it since 2024: $2.50, $1.25 from the cache, $10.
        let expected = (Currency::Usd, 2_500_000_000, 1_250_000_000, 10_000_000_000, 10_000_000_000);
        assert_eq!((known.currency, known.input, known.cached, known.output, known.reasoning), expected);
        assert_eq!(part.price("gpt-4o", now).unwrap().input, 2_000_000_000);
        assert_eq!(whole.price("nobody-knows-this-one", now), None);
        assert_eq!(whole.price("gpt-4o", now), Some(known), "the second time it is remembered");
    }

    proptest! {
        #[test]
        fn costs_are_what_a_rational_oracle_says(
            counts in prop::array::uniform4(prop_oneof![0..10_000_u64, any::<u64>()]),
            prices in prop::array::uniform5(prop_oneof![0..100 * UNIT, Just(0), Just(1_000_000 * UNIT)]),
        ) {
            let [input, cached, output, reasoning] = counts;
            let usage = Usage {
                input: Some(input), cached: Some(cached), output: Some(output), reasoning: Some(reasoning), ..Usage::default()
            };
            let [p_in, p_cached, p_out, p_reasoning, per_call] = prices;
            let price = Price {
                currency: Currency::Usd, input: p_in, cached: p_cached, output: p_out, reasoning: p_reasoning, per_call,
            };
            let (cached, reasoning) = (cached.min(input), reasoning.min(output));
            let wide = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
            // Twice the sum of millionths, to round by comparing.
            let millionths = wide(input - cached, p_in) + wide(cached, p_cached) + wide(output - reasoning, p_out)
                + wide(reasoning, p_reasoning);
            let whole = millionths / 1_000_000 + u128::from(millionths % 1_000_000 >= 500_000);
            let expected = (whole + u128::from(per_call)).min(u128::from(MOST));
            prop_assert_eq!(u128::from(price.cost(&usage)), expected);
        }

        #[test]
        fn more_tokens_never_cost_less(
            counts in prop::array::uniform2(any::<u64>()), more in prop::array::uniform2(any::<u64>()), p in 0..1000 * UNIT,
        ) {
            let usage = |[input, output]: [u64; 2]| Usage { input: Some(input), output: Some(output), ..Usage::default() };
            let larger = [counts[0].saturating_add(more[0]), counts[1].saturating_add(more[1])];
            prop_assert!(price(p).cost(&usage(larger)) >= price(p).cost(&usage(counts)));
        }
    }
}
