//! The format of a journal record. Length and CRC-32 come first, four bytes each, lowest byte first; a version and the fields
//! follow. Numbers are LEB128. An optional field has a leading byte for its presence.

use crate::domain::{
    id::RequestId,
    ledger::{Row, UsageState, storable},
    money::{Currency, Exchange},
    price::{Parts, Price},
    usage::{PolledUsage, ServiceTier, Usage},
};

const VERSION: u8 = 5;
/// Records of earlier versions are readable: a new binary continues with the journal of an old one. Version 2 ends before the
/// endpoint, version 3 after the endpoint. Version 5 adds the fields of [`put_added`].
const OLDEST: u8 = 2;
const WITH_ENDPOINT: u8 = 3;
const WITH_SHOWN: u8 = 4;
const WITH_PARTS: u8 = 5;
const HEADER: usize = 8;

/// The longest record. Our names, models and ids stay under 300 bytes each. A longer record is invalid.
const MAX_RECORD: usize = 8 * 1024;
/// The longest text. Longer texts are cut, so that no record is too long.
const MAX_TEXT: usize = 512;
/// The longest tariff. A longer one is left out, because a partial tariff is useless; the row then has only the standard price.
/// Tariffs with four sizes and all service tiers have about 2 KiB.
const MAX_TERMS: usize = 3 * 1024;
/// The shortest record has an id. So zeros at the end of a file do not look like empty records.
const MIN_RECORD: usize = 18;

/// Appends a ledger row to the buffer, in the format of a journal record: length, checksum, version and fields.
pub fn encode(row: &Row<'_>, into: &mut Vec<u8>) {
    let begin = into.len();
    into.extend_from_slice(&[0; HEADER]);
    let state = UsageState::ALL.iter().position(|state| *state == row.state).unwrap_or_default();
    into.extend_from_slice(&[VERSION, u8::try_from(state).unwrap_or_default()]);
    into.extend_from_slice(&row.id.to_bytes());
    for text in
        [row.key, row.group, row.model, row.upstream_model, row.upstream, row.credential, row.end, row.response_id]
    {
        put_text(text, into);
    }
    let [input, cached, output, reasoning, total] = counts(row.usage);
    let amounts = [row.reserved_cost, row.cost];
    for number in [row.status, input, cached, output, reasoning, total, row.reserved, row.first_byte_ms]
        .into_iter()
        .chain(amounts)
    {
        put_maybe(number, into);
    }
    for number in [row.bytes_up, row.bytes_down, row.attempts, row.took_ms] {
        put_number(number, into);
    }
    into.push(u8::from(row.estimated));
    put_price(row.price, into);
    put_text(row.endpoint, into);
    into.push(u8::from(row.shown.is_some()));
    if let Some(shown) = row.shown {
        counts(shown.usage().unwrap_or_default()).into_iter().for_each(|number| put_maybe(number, into));
    }
    put_added(row, into);
    let payload = into.get(begin + HEADER..).unwrap_or_default();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let sum = crc32fast::hash(payload).to_le_bytes();
    if let Some(header) = into.get_mut(begin..begin + HEADER) {
        let (first, second) = header.split_at_mut(length.len());
        first.copy_from_slice(&length);
        second.copy_from_slice(&sum);
    }
}

/// Writes the fields of version 5. Most rows lack most of them, so one bit each marks the present ones.
fn put_added(row: &Row<'_>, into: &mut Vec<u8>) {
    put_parts(row.usage, into);
    put_parts(row.shown.and_then(PolledUsage::usage).unwrap_or_default(), into);
    put_some(row.price.map(|price| price.optional_rates()).unwrap_or_default(), into);
    put_number(row.unpriced.bits().into(), into);
    put_maybe(row.exchange.cny_per_usd, into);
    let terms = row.terms.filter(|terms| terms.len() <= MAX_TERMS).unwrap_or_default();
    put_number(terms.len() as u64, into);
    into.extend_from_slice(terms.as_bytes());
}

/// Writes the counts that [`counts`] leaves out.
fn put_parts(usage: Usage, into: &mut Vec<u8>) {
    let tier = usage.tier.and_then(|tier| ServiceTier::ALL.iter().position(|known| *known == tier));
    put_some(
        [
            usage.cache_write,
            usage.cache_write_1h,
            usage.input_audio,
            usage.input_image,
            usage.output_audio,
            usage.output_image,
            usage.image_tool_input,
            usage.image_tool_output,
            usage.web_searches,
            usage.audio_ms,
            tier.map(|place| place as u64),
            usage.reported_cost,
        ],
        into,
    );
}

/// Writes a bit for each number's presence, and then the present numbers.
fn put_some<const N: usize>(numbers: [Option<u64>; N], into: &mut Vec<u8>) {
    let bits = numbers.iter().rev().fold(0, |bits, number| bits << 1 | u64::from(number.is_some()));
    put_number(bits, into);
    numbers.into_iter().flatten().for_each(|number| put_number(number, into));
}

fn put_price(price: Option<Price>, into: &mut Vec<u8>) {
    into.push(u8::from(price.is_some()));
    if let Some(Price { currency, input, cached, output, reasoning, per_call, .. }) = price {
        let place = Currency::ALL.iter().position(|known| *known == currency).unwrap_or_default();
        into.push(u8::try_from(place).unwrap_or_default());
        for number in [input, cached, output, reasoning, per_call] {
            put_number(number, into);
        }
    }
}

fn counts(Usage { input, cached, output, reasoning, total, .. }: Usage) -> [Option<u64>; 5] {
    [input, cached, output, reasoning, total]
}

fn put_maybe(number: Option<u64>, into: &mut Vec<u8>) {
    into.push(u8::from(number.is_some()));
    if let Some(number) = number {
        put_number(number, into);
    }
}

fn put_text(text: Option<&str>, into: &mut Vec<u8>) {
    into.push(u8::from(text.is_some()));
    if let Some(text) = text {
        let text = storable(text);
        let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
        put_number(text.len() as u64, into);
        into.extend_from_slice(text.as_bytes());
    }
}

fn put_number(mut number: u64, into: &mut Vec<u8>) {
    while number >= 0x80 {
        // The lowest seven bits always fit.
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Why the bytes of a journal file contain no further record: the data ends, a write was interrupted, or the data is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordsEnd {
    /// The end of the data.
    EndOfData,
    /// The beginning of a record whose write was interrupted.
    Torn,
    /// Data that no journal writer leaves behind.
    Damaged,
}

/// Iterates over the ledger rows in a piece of a journal file. Stops at the first incomplete or damaged record.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    left: &'a [u8],
}

impl<'a> Records<'a> {
    /// Makes the iterator over the journal records in these bytes, which must begin with a record.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Returns the number of bytes that follow the last complete journal record.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Returns why no further journal record follows: the end of the data, an interrupted write, or damage.
    pub fn rest(&self) -> RecordsEnd {
        let Some((length, _)) = self.left.split_first_chunk::<4>() else {
            return if self.left.is_empty() { RecordsEnd::EndOfData } else { RecordsEnd::Torn };
        };
        let length = u32::from_le_bytes(*length) as usize;
        let possible = (MIN_RECORD..=MAX_RECORD).contains(&length);
        if possible && self.left.len() < HEADER + length { RecordsEnd::Torn } else { RecordsEnd::Damaged }
    }

    fn first(&self) -> Option<(Row<'a>, &'a [u8])> {
        let (length, left) = self.left.split_first_chunk::<4>()?;
        let (sum, left) = left.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if !(MIN_RECORD..=MAX_RECORD).contains(&length) {
            return None;
        }
        let (payload, left) = left.split_at_checked(length)?;
        let whole = crc32fast::hash(payload) == u32::from_le_bytes(*sum);
        Some((whole.then(|| decode(payload)).flatten()?, left))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let (row, left) = self.first()?;
        self.left = left;
        Some(row)
    }
}

fn decode(payload: &[u8]) -> Option<Row<'_>> {
    let mut fields = Fields(payload);
    let [version, state] = fields.bytes::<2>()?;
    if !(OLDEST..=VERSION).contains(version) {
        return None;
    }
    let mut row = Row {
        state: *UsageState::ALL.get(usize::from(*state))?,
        id: RequestId::from_bytes(*fields.bytes::<16>()?),
        key: fields.text()?,
        group: fields.text()?,
        model: fields.text()?,
        upstream_model: fields.text()?,
        upstream: fields.text()?,
        credential: fields.text()?,
        end: fields.text()?,
        response_id: fields.text()?,
        status: fields.maybe()?,
        usage: fields.usage()?,
        reserved: fields.maybe()?,
        first_byte_ms: fields.maybe()?,
        reserved_cost: fields.maybe()?,
        cost: fields.maybe()?,
        bytes_up: fields.number()?,
        bytes_down: fields.number()?,
        attempts: fields.number()?,
        took_ms: fields.number()?,
        estimated: fields.is_there()?,
        price: fields.price()?,
        endpoint: if *version < WITH_ENDPOINT { None } else { fields.text()? },
        shown: if *version < WITH_SHOWN { None } else { fields.shown()? },
        terms: None,
        unpriced: Parts::default(),
        exchange: Exchange::default(),
    };
    if *version >= WITH_PARTS {
        fields.added(&mut row)?;
    }
    fields.0.is_empty().then_some(row)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (first, left) = self.0.split_first_chunk::<N>()?;
        self.0 = left;
        Some(first)
    }

    fn is_there(&mut self) -> Option<bool> {
        match self.bytes::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// The outer option is about the record, the inner one about the field.
    #[expect(clippy::option_option, reason = "one for the record, one for the field")]
    fn maybe(&mut self) -> Option<Option<u64>> {
        if self.is_there()? { self.number().map(Some) } else { Some(None) }
    }

    fn usage(&mut self) -> Option<Usage> {
        Some(Usage {
            input: self.maybe()?,
            cached: self.maybe()?,
            output: self.maybe()?,
            reasoning: self.maybe()?,
            total: self.maybe()?,
            ..Usage::default()
        })
    }

    #[expect(clippy::option_option, reason = "one for the record, one for the field")]
    fn shown(&mut self) -> Option<Option<PolledUsage>> {
        if self.is_there()? { self.usage().map(|usage| Some(PolledUsage::new(usage))) } else { Some(None) }
    }

    #[expect(clippy::option_option, reason = "one for the record, one for the field")]
    fn price(&mut self) -> Option<Option<Price>> {
        if !self.is_there()? {
            return Some(None);
        }
        let [place] = *self.bytes::<1>()?;
        let currency = *Currency::ALL.get(usize::from(place))?;
        let mut number = || self.number();
        let (input, cached, output, reasoning) = (number()?, number()?, number()?, number()?);
        let per_call = number()?;
        Some(Some(Price { input, cached, output, reasoning, per_call, ..Price::free(currency) }))
    }

    fn added(&mut self, row: &mut Row<'a>) -> Option<()> {
        row.usage = self.parts(row.usage)?;
        let shown = self.parts(row.shown.and_then(PolledUsage::usage).unwrap_or_default())?;
        row.shown = row.shown.map(|_| PolledUsage::new(shown));
        let more = self.some()?;
        row.price = row.price.map(|price| price.with_optional_rates(more));
        row.unpriced = Parts::from_bits(self.number()?)?;
        row.exchange = Exchange { cny_per_usd: self.maybe()? };
        let length = usize::try_from(self.number()?).ok()?;
        let (terms, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        row.terms = Some(std::str::from_utf8(terms).ok()?).filter(|terms| !terms.is_empty());
        Some(())
    }

    fn parts(&mut self, usage: Usage) -> Option<Usage> {
        let [
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
        ] = self.some()?;
        let tier = match tier {
            Some(place) => Some(*ServiceTier::ALL.get(usize::try_from(place).ok()?)?),
            None => None,
        };
        Some(Usage {
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
        })
    }

    fn some<const N: usize>(&mut self) -> Option<[Option<u64>; N]> {
        let bits = self.number()?;
        let mut numbers = [None; N];
        for (nth, number) in numbers.iter_mut().enumerate() {
            if bits >> nth & 1 == 1 {
                *number = Some(self.number()?);
            }
        }
        (bits >> N == 0).then_some(numbers)
    }

    #[expect(clippy::option_option, reason = "one for the record, one for the field")]
    fn text(&mut self) -> Option<Option<&'a str>> {
        if !self.is_there()? {
            return Some(None);
        }
        let length = usize::try_from(self.number()?).ok()?;
        let (text, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        std::str::from_utf8(text).ok().map(Some)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.bytes::<1>()?;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
