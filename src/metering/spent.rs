//! Keeps the counters of budgets to what the ledger says, and a copy of them for a start without a database.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    budgets::{Counter, LedgerSums, Spending},
    concurrent::ledger_status::LedgerStatus,
    domain::{
        clock::Clock,
        ledger::Row,
        model_name::ModelPattern,
        money::{Budget, Currency, Money, UNIT, Window, decimal},
        spending::{BudgetKey, Crossed, Span, Spender},
    },
    store::{
        files,
        sql::{Database, DatabaseError, SettledRow},
    },
};

/// What others spent, and what the last process left behind, is known this much later. What this process spends it counts
/// itself.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Reading sums up rows, and rows wait meanwhile: it is rested so many times as long as that took.
const REST: u32 = 100;

/// The file of the copy in the data folder.
pub const FILE: &str = "budgets.json";

/// The counters, and what is known of them.
pub(super) struct Spent {
    pub(super) spending: Arc<Spending>,
    pub(super) clock: Clock,
    /// Names this data folder in the ledger.
    origin: Arc<str>,
    file: PathBuf,
    /// Whether the ledger was asked at all.
    begun: bool,
    pace: Pace,
    /// What the copy says.
    saved: Vec<Saved>,
}

/// When sums are read.
struct Pace {
    /// When each was read last, but for those of which rows changed.
    read: HashMap<BudgetKey, Instant>,
    /// Until when nothing is read that can wait.
    rests_until: Instant,
}

impl Pace {
    /// Whether something of this one may be new. It waits for the rest.
    fn is_due(&self, budget: &BudgetKey, now: Instant) -> bool {
        self.read.get(budget).is_none_or(|read| now >= *read + READ_EVERY)
    }

    fn is_rested(&self, now: Instant) -> bool {
        now >= self.rests_until
    }

    /// What was due was read.
    fn rest(&mut self, began: Instant, ended: Instant) {
        self.rests_until = self.rests_until.max(ended + REST * (ended - began));
    }
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
    /// The part of it that this data folder spent. Copies of before do not tell it.
    #[serde(default)]
    own: u64,
    /// The models that it is for, if not for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The highest threshold that was told in this window, in billionths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warned: Option<u64>,
}

impl Spent {
    /// With what the copy at `file` says, until the ledger is asked: what a process before this one believed. It may be more than
    /// the rows say, where one was killed that had counted what it could not write down any more.
    pub(super) fn new(spending: Arc<Spending>, clock: Clock, origin: Arc<str>, file: PathBuf) -> Self {
        let copy = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Vec<Saved>>(&text).ok());
        for saved in copy.unwrap_or_default() {
            if let Some(budget) = saved.budget() {
                let own = saved.own.min(saved.spent);
                let counter = spending.counter(budget, u64::MAX);
                counter.believe(own, saved.spent - own);
                counter.was_warned(saved.warned.unwrap_or_default());
            }
        }
        let pace = Pace { read: HashMap::new(), rests_until: Instant::now() };
        Self { spending, clock, origin, file, begun: false, pace, saved: Vec::new() }
    }

    /// Puts what the ledger says in the place of what the copy says, once: when all rows of processes before this one are in the
    /// database.
    pub(super) async fn begin(&mut self, database: &mut Database) -> Result<(), DatabaseError> {
        if !self.begun {
            self.read(database, true).await?;
            self.begun = true;
        }
        Ok(())
    }

    /// What the database says.
    async fn sums(&self, database: &mut Database, budget: &BudgetKey) -> Result<LedgerSums, DatabaseError> {
        let BudgetKey { spender, name, model, currency, window: _, span } = budget;
        let read_at = self.now();
        let money = (*currency, self.spending.exchange());
        let mut sums = database.spent_by_origin(*spender, name, model.as_ref(), (span.from, span.to), money).await?;
        let own = sums.remove(&*self.origin).unwrap_or_default();
        Ok(LedgerSums { own, others: sums.into_iter().map(|(origin, sum)| (origin.into(), sum)).collect(), read_at })
    }

    /// Reads what is due, and all that is not up to date where this is the `last` time.
    pub(super) async fn read(&mut self, database: &mut Database, last: bool) -> Result<(), DatabaseError> {
        let now = Instant::now();
        let budgets = self.spending.current(self.now());
        let rested = last || self.pace.is_rested(now);
        for (budget, counter) in &budgets {
            if counter.known() && !(rested && self.pace.is_due(budget, now)) {
                continue;
            }
            let stored = counter.stored();
            counter.is_told(self.sums(database, budget).await?, stored);
            self.pace.read.insert(budget.clone(), now);
        }
        self.pace.rest(now, Instant::now());
        if self.pace.read.len() > budgets.len() {
            self.pace.read.retain(|known, _| budgets.iter().any(|(budget, _)| budget == known));
        }
        Ok(())
    }

    /// Rows of this process are in the database: what they cost is in its next sums.
    pub(super) fn stored(&self, rows: &[Row<'_>]) {
        let mut by_name: HashMap<(Spender, &str), Vec<(&Row<'_>, Money)>> = HashMap::new();
        for row in rows {
            let Some((nano, price)) = row.cost.zip(row.price) else { continue };
            let paid = (row, Money { nano, currency: price.currency });
            for (spender, name) in [(Spender::Key, row.key), (Spender::Group, row.group)] {
                if let Some(name) = name {
                    by_name.entry((spender, name)).or_default().push(paid);
                }
            }
        }
        if by_name.is_empty() {
            return;
        }
        for (budget, counter) in self.spending.current(self.now()) {
            let BudgetKey { spender, name, model, currency, window: _, span } = &budget;
            let rows = by_name.get(&(*spender, &**name)).into_iter().flatten();
            let is_of_it = |row: &Row<'_>| {
                let asks = |pattern: &ModelPattern| {
                    row.model.is_some_and(|model| pattern.matches(model, |name| row.upstream == Some(name)))
                };
                (span.from..span.to).contains(&row.id.millis()) && model.as_ref().is_none_or(asks)
            };
            for (row, cost) in rows.filter(|(row, _)| is_of_it(row)) {
                let exchange = row.exchange;
                counter.is_stored(exchange.convert(cost.nano, cost.currency, *currency).unwrap_or_default());
            }
        }
    }

    /// Rows cost something else than they were charged with, as is known now: the sums that they are in are read as soon as it has rested.
    pub(super) fn settled(&mut self, rows: &[SettledRow]) {
        let changed = rows.iter().filter(|row| row.cost != row.charged);
        for row in changed {
            self.pace.read.retain(|budget, _| {
                let name = match budget.spender {
                    Spender::Key => &row.key,
                    Spender::Group => &row.group,
                };
                name.as_deref() != Some(&*budget.name) || !(budget.span.from..budget.span.to).contains(&row.began)
            });
        }
    }

    /// Tells which budgets have reached a threshold, once for each window and threshold.
    pub(super) fn warn(&self, condition: &LedgerStatus) {
        for Crossed { budget, threshold, limit, spent } in self.spending.crossed() {
            condition.budget_warnings.fetch_add(1, Ordering::Relaxed);
            let BudgetKey { spender, name, model, currency, window, span: _ } = budget;
            tracing::warn!(
                whose = spender.name(),
                name = &*name,
                model = model.as_ref().map(|model| &*model.0),
                budget = %Budget { money: Money { nano: limit, currency }, window, starts_on: 1 },
                spent = decimal(spent),
                percent = threshold / (UNIT / 100),
                "spend has reached a threshold of `warn_at`: at 100 percent Tidegate refuses the requests of this budget"
            );
        }
    }

    /// Writes the copy, where something changed.
    pub(super) fn save(&mut self) {
        let now: Vec<Saved> = self.spending.current(self.now()).iter().map(Saved::of).collect();
        if now == self.saved {
            return;
        }
        let written =
            serde_json::to_vec(&now).map_err(io::Error::from).and_then(|text| files::replace(&self.file, &text));
        match written {
            Ok(()) => self.saved = now,
            Err(error) => {
                tracing::warn!(%error, file = %self.file.display(), "the spend cannot be saved in the data folder: a restart without the database would start from older sums")
            }
        }
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Saved {
    fn of((budget, counter): &(BudgetKey, Arc<Counter>)) -> Self {
        let BudgetKey { spender, name, model, currency, window, span } = budget;
        Self {
            spender: spender.name().to_owned(),
            name: name.to_string(),
            currency: currency.name().to_owned(),
            window: window.name().to_owned(),
            from: span.from,
            to: span.to,
            spent: counter.spent(),
            own: counter.own().total,
            model: model.as_ref().map(|model| model.0.to_string()),
            warned: Some(counter.warned()).filter(|warned| *warned > 0),
        }
    }

    fn budget(&self) -> Option<BudgetKey> {
        let spender = [Spender::Key, Spender::Group].into_iter().find(|one| one.name() == self.spender)?;
        let window = Window::ALL.into_iter().find(|one| one.name() == self.window)?;
        let (currency, span) = (Currency::named(&self.currency)?, Span { from: self.from, to: self.to });
        let model = self.model.as_deref().map(|model| ModelPattern(model.into()));
        Some(BudgetKey { spender, name: self.name.as_str().into(), model, currency, window, span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_takes_a_hundredth_of_the_time_at_most() {
        let budget = |name: &str| BudgetKey {
            spender: Spender::Key,
            name: name.into(),
            model: None,
            currency: Currency::Cny,
            window: Window::Day,
            span: Span::default(),
        };
        let (one, other, began) = (budget("one"), budget("other"), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        let mut pace = Pace { read: HashMap::new(), rests_until: began };
        assert!(pace.is_rested(began) && pace.is_due(&one, began));
        // Read within 20 ms: it rests for two seconds, and nothing is new for five.
        pace.read.insert(one.clone(), began);
        pace.rest(began, at(20));
        assert!(!pace.is_rested(at(2019)) && pace.is_rested(at(2020)));
        assert!(!pace.is_due(&one, at(4999)) && pace.is_due(&one, at(5000)) && pace.is_due(&other, began));
        // Within 400 ms: for forty seconds. What is read meanwhile, as it cannot wait, does not shorten that.
        pace.rest(at(5000), at(5400));
        pace.rest(at(6000), at(6001));
        assert!(!pace.is_rested(at(45_399)) && pace.is_rested(at(45_400)));
    }
}
