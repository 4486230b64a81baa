//! What limits and budgets are called in Redis.

use std::fmt::Write;

use crate::domain::{
    model_name::ModelPattern,
    spending::{BudgetKey, OwnSpend, RemoteSpend, Spender},
};

/// A budget is kept so many milliseconds beyond its window, for requests that began in it and clocks that differ.
const KEPT: u64 = 86_400_000;

/// What this process knows of a budget that replicas share.
#[derive(Clone, Debug)]
pub struct SharedBudget {
    /// Its name in Redis.
    pub name: String,
    /// Until when it is kept, in milliseconds since 1970-01-01 UTC; none = for ever.
    pub until: Option<u64>,
    /// What this data folder spent.
    pub own: OwnSpend,
    /// What others spent; nothing where Redis knows it.
    pub remote: RemoteSpend,
}

impl SharedBudget {
    /// The budget of this key.
    pub fn new(key: &BudgetKey, own: OwnSpend, remote: RemoteSpend) -> Self {
        let BudgetKey { spender, name: of, model, currency, window, span } = key;
        let (currency, window) = (currency.name(), window.name());
        let name = format!("{}:{currency}:{window}:{}", name("spending", *spender, of, model.as_ref()), span.from);
        let until = (span.to < u64::MAX).then(|| span.to.saturating_add(KEPT));
        Self { name, until, own, remote }
    }
}

/// A name in Redis that people can read and that no other key or group, and no other model of it, has: what is not a letter, a
/// digit, `-`, `.` or `_` is written as `%` and its code.
pub fn name(what: &str, whose: Spender, name: &str, model: Option<&ModelPattern>) -> String {
    let mut written = format!("tidegate:{what}:{}:", whose.name());
    write_plain(&mut written, name);
    if let Some(model) = model {
        // No other name goes on like this: every `:` in a name is escaped.
        written.push_str(":model:");
        write_plain(&mut written, &model.0);
    }
    written
}

fn write_plain(written: &mut String, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || [b'-', b'.', b'_'].contains(&byte) {
            written.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(written, "%{byte:02X}");
        }
    }
}
