use proptest::{option, prelude::*};

use super::*;

/// A row that owns its texts.
#[derive(Clone, Debug)]
struct Owned {
    id: [u8; 16],
    state: usize,
    texts: Vec<Option<String>>,
    maybe: [Option<u64>; 8],
    costs: [Option<u64>; 2],
    price: Option<[u64; 5]>,
    estimated: bool,
    numbers: [u64; 4],
    shown: Option<[Option<u64>; 5]>,
    added: Added,
}

/// The fields that version 5 added.
#[derive(Clone, Debug, Default)]
struct Added {
    parts: [[Option<u64>; 10]; 2],
    reported_cost: Option<u64>,
    tier: Option<ServiceTier>,
    more: [Option<u64>; 10],
    unpriced: u64,
    rate: Option<u64>,
    terms: Option<String>,
}

impl Added {
    fn usage(&self, parts: [Option<u64>; 10], usage: Usage) -> Usage {
        let [cache_write, cache_write_1h, input_audio, input_image, output_audio, output_image, ..] = parts;
        let [.., image_tool_input, image_tool_output, web_searches, audio_ms] = parts;
        let (tier, reported_cost) = (self.tier, self.reported_cost);
        Usage {
            cache_write,
            cache_write_1h,
            input_audio,
            input_image,
            output_audio,
            output_image,
            image_tool_input,
            image_tool_output,
            web_searches,
            audio_ms,
            tier,
            reported_cost,
            ..usage
        }
    }
}

fn added() -> BoxedStrategy<Added> {
    let number = || option::of(prop_oneof![0..300u64, any::<u64>()]);
    let parts = proptest::array::uniform2(proptest::array::uniform10(number()));
    let tier = option::of(proptest::sample::select(ServiceTier::ALL.to_vec()));
    let more = proptest::array::uniform10(number());
    let terms = option::of("[A-Z0-9;:,]{1,60}");
    (parts, number(), tier, more, 0..1_u64 << 14, number(), terms)
        .prop_map(|(parts, reported_cost, tier, more, unpriced, rate, terms)| Added {
            parts,
            reported_cost,
            tier,
            more,
            unpriced,
            rate,
            terms,
        })
        .boxed()
}

impl Owned {
    fn row(&self) -> Row<'_> {
        let text = |index: usize| self.texts[index].as_deref();
        let [status, input, cached, output, reasoning, total, reserved, first_byte_ms] = self.maybe;
        let [bytes_up, bytes_down, attempts, took_ms] = self.numbers;
        Row {
            id: RequestId::from_bytes(self.id),
            state: UsageState::ALL[self.state],
            endpoint: text(8),
            key: text(0),
            group: text(1),
            model: text(2),
            upstream_model: text(3),
            upstream: text(4),
            credential: text(5),
            end: text(6),
            response_id: text(7),
            status,
            usage: self
                .added
                .usage(self.added.parts[0], Usage { input, cached, output, reasoning, total, ..Usage::default() }),
            // A report without input or output counts as none.
            shown: self.shown.map(|[input, cached, output, reasoning, total]| {
                let usage = Usage { input, cached, output, reasoning, total, ..Usage::default() };
                PolledUsage::new(self.added.usage(self.added.parts[1], usage))
            }),
            terms: self.added.terms.as_deref(),
            unpriced: Parts::from_bits(self.added.unpriced).unwrap(),
            exchange: Exchange { cny_per_usd: self.added.rate },
            reserved,
            price: self.price.map(|[input, cached, output, reasoning, per_call]| {
                let currency = Currency::ALL[usize::from(self.estimated)];
                Price { input, cached, output, reasoning, per_call, ..Price::free(currency) }
                    .with_optional_rates(self.added.more)
            }),
            reserved_cost: self.costs[0],
            cost: self.costs[1],
            estimated: self.estimated,
            bytes_up,
            bytes_down,
            attempts,
            first_byte_ms,
            took_ms,
        }
    }
}

fn owned() -> BoxedStrategy<Owned> {
    let number = || prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)];
    let texts = proptest::collection::vec(option::of("\\PC{0,40}"), 9);
    let maybe = proptest::array::uniform8(option::of(number()));
    let numbers = proptest::array::uniform4(number());
    let costs = proptest::array::uniform2(option::of(number()));
    let price = option::of(proptest::array::uniform5(number()));
    let shown = option::of(proptest::array::uniform5(option::of(number())));
    // Boxed, as values of all fields at once do not fit the stack of a test.
    let others = (price, any::<bool>(), shown, added()).boxed();
    (any::<[u8; 16]>(), 0..UsageState::ALL.len(), texts, maybe, numbers, costs, others)
        .prop_map(|(id, state, texts, maybe, numbers, costs, (price, estimated, shown, added))| Owned {
            id,
            state,
            texts,
            maybe,
            costs,
            price,
            estimated,
            numbers,
            shown,
            added,
        })
        .boxed()
}

fn journal(rows: &[Owned]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for row in rows {
        encode(&row.row(), &mut bytes);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

proptest! {
    // Each case is some thousand readings.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_truncated_journal_gives_a_prefix_of_its_records(rows in proptest::collection::vec(owned(), 0..4)) {
        let (bytes, ends) = journal(&rows);
        for cut in 0..=bytes.len() {
            let mut records = Records::new(&bytes[..cut]);
            let read: Vec<_> = records.by_ref().collect();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let expected: Vec<_> = rows[..whole].iter().map(Owned::row).collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(records.left(), cut - ends[whole]);
            let rest = if records.left() == 0 { RecordsEnd::EndOfData } else { RecordsEnd::Torn };
            prop_assert_eq!(records.rest(), rest);
        }
    }

}

proptest! {
    #[test]
    fn a_changed_byte_ends_the_readable_records(
        rows in proptest::collection::vec(owned(), 1..4),
        at in any::<prop::sample::Index>(),
        change in 1..=u8::MAX,
    ) {
        let (mut bytes, ends) = journal(&rows);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let before = ends.iter().filter(|end| **end <= at).count() - 1;
        let read: Vec<_> = Records::new(&bytes).collect();
        let expected: Vec<_> = rows[..before].iter().map(Owned::row).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn garbage_is_never_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(Records::new(&bytes).count(), 0);
    }
}

#[test]
fn zeros_are_damage_and_long_texts_are_shortened_between_characters() {
    let mut records = Records::new(&[0; 64]);
    assert_eq!((records.next(), records.rest()), (None, RecordsEnd::Damaged));
    let long = Owned {
        costs: [None; 2],
        price: None,
        estimated: false,
        id: [7; 16],
        state: 1,
        texts: vec![Some("é".repeat(400)); 9],
        maybe: [Some(u64::MAX); 8],
        numbers: [u64::MAX; 4],
        shown: Some([Some(u64::MAX); 5]),
        added: Added {
            parts: [[Some(u64::MAX); 10]; 2],
            reported_cost: Some(u64::MAX),
            tier: Some(ServiceTier::Other),
            more: [Some(u64::MAX); 10],
            unpriced: (1 << 14) - 1,
            rate: Some(u64::MAX),
            terms: Some("9".repeat(MAX_TERMS)),
        },
    };
    let (bytes, _) = journal(&[long]);
    let row = Records::new(&bytes).next().unwrap();
    assert_eq!(row.key.unwrap(), "é".repeat(256));
    assert!(bytes.len() < MAX_RECORD);
}

#[test]
fn records_of_earlier_versions_are_read() {
    let mut row = Owned {
        costs: [Some(7), None],
        price: Some([1, 2, 3, 4, 5]),
        estimated: true,
        id: [7; 16],
        state: 1,
        texts: vec![Some("a".into()), None, None, None, None, None, None, None, Some("b".into())],
        maybe: [Some(200); 8],
        numbers: [1, 2, 3, 4],
        shown: None,
        added: Added::default(),
    };
    // Without the six bytes of what version 5 added and is not there, the one for what was not shown, and the one for the endpoint.
    for (version, bytes) in [(4, 6), (3, 7), (2, 8)] {
        let (mut record, _) = journal(std::slice::from_ref(&row));
        record.truncate(record.len() - bytes);
        record[HEADER] = version;
        let payload = record.split_off(HEADER);
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let before = [&length[..], &crc32fast::hash(&payload).to_le_bytes(), &payload].concat();
        let mut records = Records::new(&before);
        assert_eq!(records.next(), Some(row.row()));
        assert_eq!(records.rest(), RecordsEnd::EndOfData);
        if version == 3 {
            row.texts[8] = None;
        }
    }
}

#[test]
fn texts_are_written_in_a_form_that_every_database_accepts() {
    let outcome = crate::domain::outcome::Outcome::new(RequestId::from_bytes([1; 16]));
    let (mut bytes, long) = (Vec::new(), "\0".repeat(MAX_TEXT + 1));
    encode(&Row { model: Some("a\0\n\u{85}中"), response_id: Some(&long), ..Row::open(&outcome, None) }, &mut bytes);
    let row = Records::new(&bytes).next().unwrap();
    assert_eq!((row.model, row.response_id.map(str::len)), (Some("a???中"), Some(MAX_TEXT)));
}
