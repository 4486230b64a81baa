use proptest::{option, prelude::*};

use super::*;

/// One dollar per million input tokens.
const PRICE: Price = Price {
    input: UNIT,
    cached: UNIT / 10,
    output: 4 * UNIT,
    reasoning: 4 * UNIT,
    cache_write: Some(UNIT / 4 * 5),
    cache_write_1h: Some(2 * UNIT),
    input_audio: Some(10 * UNIT),
    input_image: Some(3 * UNIT),
    output_audio: Some(20 * UNIT),
    output_image: Some(40 * UNIT),
    image_tool_input: Some(5 * UNIT),
    image_tool_output: Some(32 * UNIT),
    per_web_search: Some(UNIT / 100),
    per_audio_second: Some(UNIT / 10_000),
    ..Price::free(Currency::Usd)
};

const TEXT: Price =
    Price { input: UNIT, cached: UNIT, output: 4 * UNIT, reasoning: 4 * UNIT, ..Price::free(Currency::Usd) };

fn tariff() -> Tariff {
    let long = PriceStep { tier: None, above: 272_000, price: PRICE.with_tier_factor(2 * UNIT) };
    let flex = |step: PriceStep| PriceStep {
        tier: Some(ServiceTier::Flex),
        price: step.price.with_tier_factor(UNIT / 2),
        ..step
    };
    Tariff::new(PRICE, vec![long, flex(PriceStep { tier: None, above: 0, price: PRICE }), flex(long)])
}

fn used(input: u64, output: u64) -> Usage {
    Usage { input: Some(input), output: Some(output), ..Usage::default() }
}

/// Usage, cost with all rates, cost with text rates only, parts without a price then. Costs are in millionths of a dollar.
#[test]
fn each_part_is_billed_with_its_own_price() {
    let none = Usage::default();
    let image_tool = Usage { image_tool_input: Some(50), image_tool_output: Some(280_960), ..used(100, 10) };
    for (usage, cost, text_only, unpriced) in [
        (used(1000, 100), 1400, 1400, None),
        (Usage { cached: Some(400), ..used(1000, 100) }, 1040, 1400, None),
        (Usage { reasoning: Some(60), ..used(1000, 100) }, 1400, 1400, None),
        // 600 tokens of text, 400 written to the cache.
        (Usage { cache_write: Some(400), ..used(1000, 0) }, 1100, 1000, Some("cache_write")),
        (Usage { cache_write_1h: Some(400), ..used(1000, 0) }, 1400, 1000, Some("cache_write_1h")),
        (Usage { input_audio: Some(400), ..used(1000, 0) }, 4600, 1000, Some("input_audio")),
        (Usage { input_image: Some(400), ..used(1000, 0) }, 1800, 1000, Some("input_image")),
        (Usage { output_audio: Some(50), ..used(0, 100) }, 1200, 400, Some("output_audio")),
        (Usage { output_image: Some(50), ..used(0, 100) }, 2200, 400, Some("output_image")),
        // 100 + 40 for the model, plus 250 + 8,990,720 for the tool.
        (image_tool, 8_991_110, 1_124_030, Some("image_tool_input,image_tool_output")),
        (Usage { web_searches: Some(3), ..used(1000, 0) }, 31_000, 1000, Some("web_searches")),
        (Usage { audio_ms: Some(90_500), ..none }, 9050, 0, Some("audio_seconds")),
        // Billed by tokens: the time is not billed.
        (Usage { audio_ms: Some(90_000), ..used(1000, 0) }, 10_000, 1000, None),
        // A part that is larger than the total raises the total.
        (Usage { cached: Some(900_000), ..used(10, 0) }, 90_000 * 2, 900_000, None),
        (Usage { reasoning: Some(50), ..used(0, 10) }, 200, 200, None),
        // Providers do not report how much of the audio was cached: audio counts as not cached, as far as there are such tokens.
        (Usage { cached: Some(600), input_audio: Some(500), ..used(1000, 0) }, 4060, 1000, Some("input_audio")),
        // A count of zero needs no price.
        (
            Usage { cache_write: Some(0), input_image: Some(0), web_searches: Some(0), ..used(1000, 0) },
            1000,
            1000,
            None,
        ),
    ] {
        let bill = tariff().bill(&usage);
        assert_eq!((bill.cost, bill.unpriced), (cost * 1000, Parts::default()), "{usage:?}");
        let bill = Tariff::from(TEXT).bill(&usage);
        assert_eq!((bill.cost, bill.unpriced.names().as_deref()), (text_only * 1000, unpriced), "{usage:?}");
    }
}

#[test]
fn the_size_of_the_input_and_the_service_tier_choose_the_price() {
    let only_standard =
        Tariff::new(PRICE, vec![PriceStep { tier: None, above: 272_000, price: PRICE.with_tier_factor(2 * UNIT) }]);
    for (input, tier, cost, standard, unpriced) in [
        (272_000, None, 272_000, 272_000, None),
        (272_001, None, 544_002, 544_002, None),
        (1000, Some(ServiceTier::Flex), 500, 1000, Some("flex_tier")),
        (272_001, Some(ServiceTier::Flex), 272_001, 544_002, Some("flex_tier")),
    ] {
        let usage = Usage { tier, ..used(input, 0) };
        let bill = tariff().bill(&usage);
        assert_eq!((bill.cost, bill.unpriced), (cost * 1000, Parts::default()), "{input} {tier:?}");
        let bill = only_standard.bill(&usage);
        assert_eq!((bill.cost, bill.unpriced.names().as_deref()), (standard * 1000, unpriced), "{input} {tier:?}");
    }
    for (tier, name) in [
        (ServiceTier::Priority, "priority_tier"),
        (ServiceTier::Batch, "batch_tier"),
        (ServiceTier::Other, "other_tier"),
    ] {
        let bill = tariff().bill(&Usage { tier: Some(tier), ..used(1000, 0) });
        assert_eq!((bill.cost, bill.unpriced.names().as_deref()), (1_000_000, Some(name)), "the standard price");
    }
}

#[test]
fn a_free_price_and_a_price_per_request_never_have_unpriced_parts() {
    let usage =
        Usage { input_image: Some(7), web_searches: Some(1), tier: Some(ServiceTier::Priority), ..used(10, 10) };
    for price in [Price::free(Currency::Cny), Price { per_call: 9, ..Price::free(Currency::Cny) }] {
        let bill = Tariff::from(price).bill(&usage);
        assert_eq!((bill.cost, bill.unpriced), (price.per_call, Parts::default()));
    }
}

#[test]
fn a_set_of_parts_converts_to_bits_and_names() {
    let mut parts = Parts::default();
    assert_eq!(parts.names(), None);
    for part in Part::ALL {
        parts.insert(part);
    }
    assert_eq!(parts.iter().count(), Part::ALL.len());
    assert_eq!((Parts::from_bits(parts.bits().into()), Parts::from_bits(1 << Part::ALL.len())), (Some(parts), None));
    assert_eq!(PRICE.optional_rates_text().unwrap().split(',').count(), RATES - 5);
    assert_eq!(TEXT.optional_rates_text(), None);
}

fn count() -> impl Strategy<Value = Option<u64>> {
    option::of(prop_oneof![0..10_000_u64, any::<u64>()])
}

fn usage() -> impl Strategy<Value = Usage> {
    let counts = prop::array::uniform14(count());
    let tier = option::of(prop::sample::select(ServiceTier::ALL.to_vec()));
    (counts, tier).prop_map(|(counts, tier)| {
        let [input, cached, cache_write, cache_write_1h, input_audio, input_image, output, reasoning, ..] = counts;
        let [.., output_audio, output_image, image_tool_input, image_tool_output, web_searches, audio_ms] = counts;
        let (total, reported_cost) = (None, None);
        Usage {
            input,
            cached,
            cache_write,
            cache_write_1h,
            input_audio,
            input_image,
            output,
            reasoning,
            output_audio,
            output_image,
            total,
            image_tool_input,
            image_tool_output,
            web_searches,
            audio_ms,
            tier,
            reported_cost,
        }
    })
}

fn price() -> impl Strategy<Value = Price> {
    let rate = || prop_oneof![0..100 * UNIT, Just(0), Just(1_000_000 * UNIT)];
    (prop::array::uniform5(rate()), prop::array::uniform10(option::of(rate()))).prop_map(|(rates, more)| {
        let [input, cached, output, reasoning, per_call] = rates;
        Price { input, cached, output, reasoning, per_call, ..Price::free(Currency::Cny) }.with_optional_rates(more)
    })
}

fn any_tariff() -> impl Strategy<Value = Tariff> {
    let step = (option::of(prop::sample::select(ServiceTier::ALL.to_vec())), 0..20_000_u64, price());
    (price(), prop::collection::vec(step, 0..5)).prop_map(|(base, steps)| {
        let steps = steps.into_iter().map(|(tier, above, price)| PriceStep { tier, above, price });
        Tariff::new(base, steps.collect())
    })
}

/// The cost as a plain sum in millionths, for counts that do not contradict each other.
fn oracle(price: &Price, usage: &Usage) -> u128 {
    let of = |count: Option<u64>, rate: Option<u64>| {
        u128::from(count.unwrap_or_default()) * u128::from(rate.unwrap_or_default())
    };
    let (input, output) = (Some(price.input), Some(price.output));
    let special_in = [usage.cached, usage.cache_write, usage.cache_write_1h, usage.input_audio, usage.input_image];
    let special_out = [usage.reasoning, usage.output_audio, usage.output_image];
    let rest = |all: Option<u64>, parts: &[Option<u64>]| all.map(|all| all - parts.iter().flatten().sum::<u64>());
    let millionths = of(rest(usage.input, &special_in), input)
        + of(usage.cached, Some(price.cached))
        + of(usage.cache_write, price.cache_write.or(input))
        + of(usage.cache_write_1h, price.cache_write_1h.or(price.cache_write).or(input))
        + of(usage.input_audio, price.input_audio.or(input))
        + of(usage.input_image, price.input_image.or(input))
        + of(rest(usage.output, &special_out), output)
        + of(usage.reasoning, Some(price.reasoning))
        + of(usage.output_audio, price.output_audio.or(output))
        + of(usage.output_image, price.output_image.or(output))
        + of(usage.image_tool_input, price.image_tool_input.or(price.input_image).or(input))
        + of(usage.image_tool_output, price.image_tool_output.or(price.output_image).or(output))
        + of(usage.audio_ms, price.per_audio_second) * 1000
        + of(usage.web_searches, price.per_web_search) * 1_000_000
        + u128::from(price.per_call) * 1_000_000;
    (millionths / TOKENS_PER_RATE + u128::from(millionths % TOKENS_PER_RATE >= TOKENS_PER_RATE / 2)).min(MOST.into())
}

proptest! {
    #[test]
    fn costs_equal_a_plain_sum_with_one_rounding(price in price(), parts in prop::array::uniform14(0..1_000_000_u64)) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = parts.map(Some);
        let sum = |parts: &[Option<u64>]| Some(parts.iter().flatten().sum());
        let usage = Usage {
            input: sum(&[a, b, c, d, e, f]), cached: b, cache_write: c, cache_write_1h: d, input_audio: e, input_image: f,
            output: sum(&[g, h, i, j]), reasoning: h, output_audio: i, output_image: j,
            image_tool_input: k, image_tool_output: l, web_searches: m, audio_ms: n, ..Usage::default()
        };
        prop_assert_eq!(u128::from(price.bill_of(&usage)), oracle(&price, &usage));
    }

    /// For every usage, also with contradictions: no sum overflows, and the whole costs no less than any of its parts.
    #[test]
    fn the_whole_never_costs_less_than_a_part(tariff in any_tariff(), usage in usage()) {
        let bill = tariff.bill(&usage);
        prop_assert!(bill.cost <= MOST);
        let none = Usage { input: None, output: None, tier: usage.tier, ..Usage::default() };
        for part in [
            Usage { cached: usage.cached, ..none },
            Usage { cache_write: usage.cache_write, ..none },
            Usage { cache_write_1h: usage.cache_write_1h, ..none },
            Usage { reasoning: usage.reasoning, ..none },
            Usage { output_audio: usage.output_audio, ..none },
            Usage { output_image: usage.output_image, ..none },
            Usage { image_tool_input: usage.image_tool_input, ..none },
            Usage { image_tool_output: usage.image_tool_output, ..none },
            Usage { web_searches: usage.web_searches, ..none },
            Usage { audio_ms: usage.audio_ms, ..none },
        ] {
            // With the price that applies to the whole usage.
            prop_assert!(bill.price.bill_of(&part) <= bill.cost, "{:?} of {:?}", part, usage);
        }
    }

    #[test]
    fn more_text_never_costs_less(
        counts in prop::array::uniform2(any::<u64>()), more in prop::array::uniform2(any::<u64>()), price in price(),
    ) {
        let larger = used(counts[0].saturating_add(more[0]), counts[1].saturating_add(more[1]));
        prop_assert!(price.bill_of(&larger) >= price.bill_of(&used(counts[0], counts[1])));
    }

    /// Neither the order of the steps nor the order of the sum matters.
    #[test]
    fn order_does_not_matter(tariff in any_tariff(), usage in usage(), costs in prop::collection::vec(0..=MOST, 0..9)) {
        let mut steps = tariff.steps().to_vec();
        steps.sort_by_key(|step| (step.tier.map(ServiceTier::name), step.above));
        steps.dedup_by_key(|step| (step.tier, step.above));
        let sorted = Tariff::new(tariff.base, steps.clone());
        steps.reverse();
        prop_assert_eq!(sorted.bill(&usage), Tariff::new(tariff.base, steps).bill(&usage));
        let sum = |costs: &mut dyn Iterator<Item = &u64>| costs.fold(0_u64, |sum, cost| sum.saturating_add(*cost).min(MOST));
        prop_assert_eq!(sum(&mut costs.iter()), sum(&mut costs.iter().rev()));
    }

    #[test]
    fn a_tariff_survives_writing_and_reading(tariff in any_tariff()) {
        prop_assert_eq!(Tariff::from_text(&tariff.to_text()), Some(tariff));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(USD|CNY)?[;:,0-9a-z]{0,60}") {
        let _ = Tariff::from_text(&text);
    }

    /// A tier factor is exact to the nano-unit.
    #[test]
    fn factors_are_exact(price in price(), factor in 1..=100 * UNIT) {
        let times = price.with_tier_factor(factor);
        let exact = |rate: u64| u64::try_from((u128::from(rate) * u128::from(factor) + u128::from(UNIT / 2)) / u128::from(UNIT)).unwrap();
        prop_assert_eq!([times.input, times.cached, times.output], [price.input, price.cached, price.output].map(exact));
        prop_assert_eq!((times.per_call, times.per_web_search), (price.per_call, price.per_web_search));
    }
}

impl Price {
    /// The cost with this price, without the choice of a step.
    fn bill_of(&self, usage: &Usage) -> u64 {
        self.bill(&Counts::of(usage), &mut Parts::default())
    }
}
