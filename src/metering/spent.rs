//! Keeps the counters of budgets to what the ledger says, and a copy of them for a start without a database.

use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    domain::{
        clock::Clock,
        money::{Currency, Window},
        spending::{Account, Counter, Span, Spender, Spending},
    },
    store::{
        files,
        sql::{Database, DatabaseError, Settled},
    },
};

/// What others spent, and what the last process left behind, is known this much later. What this process spends it counts
/// itself.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Where replicas share what they count, they are told that something cost less when each of them has read that in the ledger:
/// whoever has not would put back what it knows.
const OWED_AFTER: Duration = READ_EVERY.saturating_mul(2);

/// The file of the copy in the data folder.
pub const FILE: &str = "budgets.json";

/// The counters, and what is known of them.
pub(super) struct Spent {
    pub(super) spending: Arc<Spending>,
    pub(super) clock: Clock,
    file: PathBuf,
    /// What a process before this one believed, until the ledger was asked. It may be more than the rows say, where one was
    /// killed that had counted what it could not write down any more.
    copied: Option<HashMap<Account, u64>>,
    /// When each was read last.
    read: HashMap<Account, Instant>,
    /// What the copy says.
    saved: Vec<Saved>,
    /// What did cost less, and since when that is known.
    owed: Vec<(Instant, Arc<Counter>, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    spender: String,
    name: String,
    currency: String,
    window: String,
    from: u64,
    to: u64,
    spent: u64,
}

impl Spent {
    /// With what the copy at `file` says.
    pub(super) fn new(spending: Arc<Spending>, clock: Clock, file: PathBuf) -> Self {
        let copy = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Vec<Saved>>(&text).ok());
        let mut copied = HashMap::new();
        for saved in copy.unwrap_or_default() {
            if let Some(account) = saved.account() {
                spending.counter(account.clone()).believe(saved.spent);
                copied.insert(account, saved.spent);
            }
        }
        Self { spending, clock, file, copied: Some(copied), read: HashMap::new(), saved: Vec::new(), owed: Vec::new() }
    }

    /// Puts what the ledger says in the place of what the copy says, once: while all rows of processes before this one are
    /// in the database, and none of this one.
    pub(super) async fn begin(&mut self, database: &mut Database) -> Result<(), DatabaseError> {
        let Some(copied) = &self.copied else { return Ok(()) };
        let mut known = Vec::new();
        for (account, counter) in self.spending.accounts(self.millis()) {
            let believed = copied.get(&account).copied().unwrap_or_default();
            known.push((counter, believed, self.sum(database, &account).await?));
        }
        // All of them or none: a second try must not correct twice.
        for (counter, believed, spent) in known {
            counter.correct(believed, spent);
            counter.is_known();
        }
        self.copied = None;
        Ok(())
    }

    /// What the database says.
    async fn sum(&self, database: &mut Database, account: &Account) -> Result<u64, DatabaseError> {
        let Account { spender, name, currency, window: _, span } = account;
        let (sums, exchange) = (database.spent(*spender, name, span.from, span.to).await?, self.spending.exchange());
        let in_currency = |(from, sum): (Currency, u64)| exchange.convert(sum, from, *currency);
        Ok(Currency::ALL.into_iter().zip(sums).filter_map(in_currency).fold(0, u64::saturating_add))
    }

    /// Reads what is due.
    pub(super) async fn read(&mut self, database: &mut Database) -> Result<(), DatabaseError> {
        let now = Instant::now();
        let accounts = self.spending.accounts(self.millis());
        for (account, counter) in &accounts {
            if self.read.get(account).is_some_and(|read| now < *read + READ_EVERY) {
                continue;
            }
            counter.is_told(self.sum(database, account).await?);
            counter.is_known();
            self.read.insert(account.clone(), now);
        }
        self.owed.retain(|(since, counter, less)| {
            let waits = now < *since + OWED_AFTER;
            if !waits {
                counter.owe(*less);
            }
            waits
        });
        if self.read.len() > accounts.len() {
            self.read.retain(|known, _| accounts.iter().any(|(account, _)| account == known));
        }
        Ok(())
    }

    /// Rows cost something else than they were charged with, as is known now. A counter may have missed what others were
    /// charged with until then: it does not fall below what the ledger says.
    pub(super) async fn settled(&mut self, database: &mut Database, rows: &[Settled]) -> Result<(), DatabaseError> {
        // Until it was asked for the first time, it is asked for all of it.
        if self.copied.is_some() || rows.iter().all(|row| row.cost == row.charged) {
            return Ok(());
        }
        let exchange = self.spending.exchange();
        for (account, counter) in self.spending.accounts(self.millis()) {
            let Span { from, to } = account.span;
            let in_currency = |row: &Settled, amount: u64| {
                row.currency
                    .and_then(|currency| exchange.convert(amount, currency, account.currency))
                    .unwrap_or_default()
            };
            let is_of_it = |row: &Settled| {
                let name = match account.spender {
                    Spender::Key => &row.key,
                    Spender::Group => &row.group,
                };
                name.as_deref() == Some(&*account.name) && (from..to).contains(&row.began)
            };
            let (mut more, mut less) = (0u64, 0u64);
            for row in rows.iter().filter(|row| is_of_it(row)) {
                let (charged, cost) = (in_currency(row, row.charged), in_currency(row, row.cost));
                more = more.saturating_add(cost.saturating_sub(charged));
                less = less.saturating_add(charged.saturating_sub(cost));
            }
            if (more, less) != (0, 0) {
                let spent = self.sum(database, &account).await?;
                counter.add(more);
                counter.lower(less, spent);
                self.owed.push((Instant::now(), counter, less));
            }
        }
        Ok(())
    }

    /// Writes the copy, where something changed.
    pub(super) fn save(&mut self) {
        let now: Vec<Saved> = self.spending.accounts(self.millis()).iter().map(Saved::of).collect();
        if now == self.saved {
            return;
        }
        let written =
            serde_json::to_vec(&now).map_err(io::Error::from).and_then(|text| files::replace(&self.file, &text));
        match written {
            Ok(()) => self.saved = now,
            Err(error) => tracing::warn!(%error, file = %self.file.display(), "what was spent cannot be copied"),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Saved {
    fn of((account, counter): &(Account, Arc<Counter>)) -> Self {
        let Account { spender, name, currency, window, span } = account;
        Self {
            spender: spender.name().to_owned(),
            name: name.to_string(),
            currency: currency.name().to_owned(),
            window: window.name().to_owned(),
            from: span.from,
            to: span.to,
            spent: counter.spent(),
        }
    }

    fn account(&self) -> Option<Account> {
        let spender = [Spender::Key, Spender::Group].into_iter().find(|one| one.name() == self.spender)?;
        let window = Window::ALL.into_iter().find(|one| one.name() == self.window)?;
        let (currency, span) = (Currency::named(&self.currency)?, Span { from: self.from, to: self.to });
        Some(Account { spender, name: self.name.as_str().into(), currency, window, span })
    }
}
