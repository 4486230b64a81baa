//! Reports answers with a part that has no price.

use std::sync::Arc;

use crate::{concurrent::ledger_status::LedgerStatus, domain::price::Parts, metrics::Unpriced, store::sql::SettledRow};

/// Counts the parts of an answer that have no price. Logs each part once for each model.
pub(super) fn note(unpriced: &Unpriced, upstream: &Arc<str>, model: &Arc<str>, parts: Parts) {
    for part in unpriced.count(upstream, model, parts).iter() {
        tracing::warn!(
            upstream = &**upstream,
            model = &**model,
            part = part.name(),
            setting = part.setting(),
            "answers of this model have a part without a price: Tidegate marks the ledger rows of these answers as \
             unpriced_part and estimates the cost. Add the setting in `setting` to the model's [[prices]]",
        );
    }
}

/// Counts rows that shown usage settled, and their parts without a price.
pub(super) fn note_settled(settled: &[SettledRow], condition: &LedgerStatus, unpriced: &Unpriced) {
    for row in settled {
        condition.count(row.state, 1);
        if !row.unpriced.is_empty() {
            let model = row.upstream_model.as_deref().unwrap_or_default().into();
            note(unpriced, &row.upstream.as_str().into(), &model, row.unpriced);
        }
    }
}
