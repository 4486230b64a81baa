//! The limits of a key, for people.

use super::Limits;
use crate::domain::{clock::UnixMillis, money::decimal};

impl Limits {
    /// A line for the key with this index, one for its group, and one for each model with limits of its own.
    pub fn shown(&self, key: usize, now: UnixMillis) -> Vec<String> {
        let Some(subject) = self.keys.get(key).and_then(Option::as_ref) else { return Vec::new() };
        let line = |share: &super::subject::Share| {
            let mut parts: Vec<String> = Vec::new();
            parts.extend(share.requests.map(|rate| format!("{} requests per minute", rate.limit())));
            parts.extend(share.tokens.map(|rate| format!("{} tokens per minute", rate.limit())));
            parts.extend(share.in_flight.map(|limit| format!("{limit} requests at once")));
            parts.extend(share.budgets.iter().map(|one| {
                let counter = one.counter(share, subject, now).1;
                // Without a ledger that was read nobody knows.
                let spent = counter.known().then(|| format!(", {} spent", decimal(counter.spent())));
                format!("{}{}", one.budget, spent.unwrap_or_default())
            }));
            let model = share.model.as_ref().map(|model| format!(", model {}", model.0)).unwrap_or_default();
            format!("{} {}{model}: {}", share.whose.name(), share.name, parts.join("; "))
        };
        subject.shares.iter().map(line).collect()
    }
}
