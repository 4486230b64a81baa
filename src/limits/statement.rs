//! The budgets of a key, for whoever holds the key.

use super::Limits;
use crate::domain::{
    clock::UnixMillis,
    money::Budget,
    spending::{Span, Spender},
};

/// How one budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Budget,
    /// Nano-units of it that are spent; none while the ledger was not read.
    pub spent: Option<u64>,
    /// The window that it is counted in now.
    pub span: Span,
}

impl Limits {
    /// The budgets of the key with this index, without those for some models only, and without those of its group: what others spent
    /// is not the key's to know.
    pub fn budgets(&self, key: usize, now: UnixMillis) -> Vec<BudgetState> {
        let Some(subject) = self.keys.get(key).and_then(Option::as_ref) else { return Vec::new() };
        let own = subject.shares.iter().filter(|share| share.whose == Spender::Key && share.model.is_none());
        let states = own.flat_map(|share| share.budgets.iter().map(move |one| (share, one)));
        let state = |(share, one): (&super::subject::Share, &super::subject::OneBudget)| {
            let (span, counter) = one.counter(share, subject, now);
            BudgetState { budget: one.budget, spent: counter.known().then(|| counter.spent()), span }
        };
        states.map(state).collect()
    }
}
