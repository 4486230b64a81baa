//! The statement that inserts ledger rows.

use std::{collections::HashMap, sync::Arc};

use super::dialect;
use crate::domain::usage::Usage;

/// Values of a row.
pub(super) const VALUES: usize = 52;

const INSERT: &str = "INSERT INTO ledger (id, time_ms, state, origin, endpoint, key_name, group_name, model, \
     upstream_model, upstream, credential, end_reason, response_id, currency, status, input_tokens, cached_tokens, \
     output_tokens, reasoning_tokens, total_tokens, reserved_tokens, first_byte_ms, price_input, price_cached, price_output, \
     price_reasoning, price_call, reserved_cost, cost, estimated, bytes_up, bytes_down, attempts, took_ms, awaits, cache_write_tokens, \
     cache_write_1h_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, \
     image_tool_input_tokens, image_tool_output_tokens, web_searches, audio_ms, told_cost, service_tier, unpriced_parts, \
     price_more, price_terms, cny_per_usd, cost_exchanged) ";

/// The row of a finished request never changes. A row marked as interrupted is replaced when the request's real end is known
/// after all.
const CONFLICT: &str = " ON CONFLICT (id) DO UPDATE SET state = excluded.state, upstream_model = excluded.upstream_model, \
     upstream = excluded.upstream, credential = excluded.credential, end_reason = excluded.end_reason, \
     status = excluded.status, input_tokens = excluded.input_tokens, cached_tokens = excluded.cached_tokens, \
     output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, \
     total_tokens = excluded.total_tokens, currency = excluded.currency, price_input = excluded.price_input, \
     price_cached = excluded.price_cached, price_output = excluded.price_output, \
     price_reasoning = excluded.price_reasoning, price_call = excluded.price_call, cost = excluded.cost, \
     estimated = excluded.estimated, bytes_down = excluded.bytes_down, attempts = excluded.attempts, \
     first_byte_ms = excluded.first_byte_ms, took_ms = excluded.took_ms, response_id = excluded.response_id, \
     awaits = excluded.awaits, cache_write_tokens = excluded.cache_write_tokens, \
     cache_write_1h_tokens = excluded.cache_write_1h_tokens, input_audio_tokens = excluded.input_audio_tokens, \
     input_image_tokens = excluded.input_image_tokens, output_audio_tokens = excluded.output_audio_tokens, \
     output_image_tokens = excluded.output_image_tokens, image_tool_input_tokens = excluded.image_tool_input_tokens, \
     image_tool_output_tokens = excluded.image_tool_output_tokens, web_searches = excluded.web_searches, \
     audio_ms = excluded.audio_ms, told_cost = excluded.told_cost, service_tier = excluded.service_tier, \
     unpriced_parts = excluded.unpriced_parts, price_more = excluded.price_more, price_terms = excluded.price_terms, \
     cny_per_usd = excluded.cny_per_usd, cost_exchanged = excluded.cost_exchanged \
     WHERE ledger.state IN ('open', 'interrupted') AND excluded.state <> 'open' AND excluded.state <> ledger.state";

/// Returns which rows are new or changed. Mostly all are, and then the statement omits this clause: SQLite's thread hands over
/// each returned row separately, which takes longer than writing it.
const RETURNING: &str = " RETURNING state";

/// The texts of statements that are used repeatedly: the sizes of [`Dialect::batch`](dialect::SqlDialect::batch) for SQLite, and
/// statements with few rows.
#[derive(Debug, Default)]
pub(super) struct Texts(HashMap<(usize, bool), Arc<str>>);

impl Texts {
    /// Returns the text that inserts this many rows, and whether to keep the statement prepared.
    pub(super) fn insert(&mut self, dialect: &dialect::SqlDialect, rows: usize, ask: bool) -> (Arc<str>, bool) {
        let make = || Arc::from(insert(dialect, rows, ask));
        let kept = rows <= dialect.kept;
        let text = if kept { Arc::clone(self.0.entry((rows, ask)).or_insert_with(make)) } else { make() };
        (text, kept)
    }
}

fn insert(dialect: &dialect::SqlDialect, rows: usize, ask: bool) -> String {
    let mut text = String::from(INSERT);
    text.push_str("VALUES ");
    for nth in 0..rows * VALUES {
        text.push_str(match (nth, nth % VALUES) {
            (0, _) => "(",
            (_, 0) => "), (",
            _ => ", ",
        });
        (dialect.placeholder)(nth + 1, &mut text);
    }
    text.push(')');
    text.push_str(CONFLICT);
    if ask {
        text.push_str(RETURNING);
    }
    text
}

/// Returns the counts of a usage that tables have since version 6, in column order.
pub(super) fn more_counts(usage: &Usage) -> [Option<u64>; 10] {
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
    ]
}
