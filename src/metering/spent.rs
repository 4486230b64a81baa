//! Corrects the counters of budgets by the ledger, and keeps a copy of them for a start without the database.

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
        spending::{BudgetKey, Span, Spender, ThresholdReached},
    },
    store::{
        files,
        sql::{Database, DatabaseError, SettledRow},
    },
};

/// The ledger is read this often for the spend of other replicas. The process counts its own spend itself.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Reading sums up rows, and new rows wait meanwhile. So the pause is this many times as long as the reading took.
const REST: u32 = 100;

/// The name of the file in the data folder that has a copy of the spend of all budgets, for a start without the database.
pub const FILE: &str = "budgets.json";

/// The counters of budgets, with the ledger and the copy.
pub(super) struct Spent {
    pub(super) spending: Arc<Spending>,
    pub(super) clock: Clock,
    /// The name of this data folder in the ledger.
    origin: Arc<str>,
    file: PathBuf,
    /// Whether the ledger was read since the start.
    begun: bool,
    pace: Pace,
    /// The content of the copy.
    saved: Vec<Saved>,
}

/// When the ledger is read.
struct Pace {
    /// When each budget was read last, without those whose rows have changed.
    read: HashMap<BudgetKey, Instant>,
    /// The end of the pause.
    rests_until: Instant,
}

impl Pace {
    /// Whether the budget may have new rows.
    fn is_due(&self, budget: &BudgetKey, now: Instant) -> bool {
        self.read.get(budget).is_none_or(|read| now >= *read + READ_EVERY)
    }

    fn is_rested(&self, now: Instant) -> bool {
        now >= self.rests_until
    }

    /// Begins a pause after a reading.
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
    /// The part of this data folder. Copies of earlier versions lack it.
    #[serde(default)]
    own: u64,
    /// The models of the budget; none = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The highest threshold of which a warning was given in this window, in billionths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warned: Option<u64>,
}

impl Spent {
    /// Begins with the copy at `file`, until the ledger is read. The copy may be above the sum of the rows: a process that was killed may have
    /// counted requests whose rows it could not write any more.
    pub(super) fn new(spending: Arc<Spending>, clock: Clock, origin: Arc<str>, file: PathBuf) -> Self {
        let copy = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Vec<Saved>>(&text).ok());
        for saved in copy.unwrap_or_default() {
            if let Some(budget) = saved.budget() {
                let own = saved.own.min(saved.spent);
                let counter = spending.counter(budget, u64::MAX);
                counter.restore(own, saved.spent - own, saved.warned.unwrap_or_default());
            }
        }
        let pace = Pace { read: HashMap::new(), rests_until: Instant::now() };
        Self { spending, clock, origin, file, begun: false, pace, saved: Vec::new() }
    }

    /// Replaces the copy by the ledger, once: when the database has all rows of earlier processes.
    pub(super) async fn begin(&mut self, database: &mut Database) -> Result<(), DatabaseError> {
        if !self.begun {
            self.read(database, true).await?;
            self.begun = true;
        }
        Ok(())
    }

    /// Reads the spend of a budget.
    async fn sums(&self, database: &mut Database, budget: &BudgetKey) -> Result<LedgerSums, DatabaseError> {
        let BudgetKey { spender, name, model, currency, window: _, span } = budget;
        let read_at = self.now();
        let money = (*currency, self.spending.exchange());
        let mut sums = database.spent_by_origin(*spender, name, model.as_ref(), (span.from, span.to), money).await?;
        let own = sums.remove(&*self.origin).unwrap_or_default();
        Ok(LedgerSums { own, others: sums.into_iter().map(|(origin, sum)| (origin.into(), sum)).collect(), read_at })
    }

    /// Reads the budgets that are due. The `last` reading does not wait for the end of the pause.
    pub(super) async fn read(&mut self, database: &mut Database, last: bool) -> Result<(), DatabaseError> {
        let now = Instant::now();
        let budgets = self.spending.current(self.now());
        let rested = last || self.pace.is_rested(now);
        for (budget, counter) in &budgets {
            if counter.is_read() && !(rested && self.pace.is_due(budget, now)) {
                continue;
            }
            let stored = counter.stored();
            counter.ledger_shows(self.sums(database, budget).await?, stored);
            self.pace.read.insert(budget.clone(), now);
        }
        self.pace.rest(now, Instant::now());
        if self.pace.read.len() > budgets.len() {
            self.pace.read.retain(|known, _| budgets.iter().any(|(budget, _)| budget == known));
        }
        Ok(())
    }

    /// The database has these rows of this process: its next sums contain them.
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
                counter.row_stored(exchange.convert(cost.nano, cost.currency, *currency).unwrap_or_default());
            }
        }
    }

    /// The cost of these rows has changed: the ledger is read for their budgets after the pause.
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

    /// Warns of budgets that reached a threshold, once for each window and threshold.
    pub(super) fn warn(&self, condition: &LedgerStatus) {
        for ThresholdReached { budget, threshold, limit, spent } in self.spending.take_reached_thresholds() {
            condition.budget_warnings.fetch_add(1, Ordering::Relaxed);
            let BudgetKey { spender, name, model, currency, window, span: _ } = budget;
            tracing::warn!(
                whose = spender.name(),
                name = &*name,
                model = model.as_ref().map(|model| &*model.0),
                budget = %Budget { money: Money { nano: limit, currency }, window, starts_on: 1 },
                spent = decimal(spent),
                percent = threshold / (UNIT / 100),
                "the spend of a budget has reached a threshold of `warn_at`: at 100 percent, Tidegate refuses the \
                 requests of this budget. Raise the budget if needed"
            );
        }
    }

    /// Writes the copy if it has changed.
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
                tracing::warn!(%error, file = %self.file.display(), "the spend of the budgets cannot be saved in the \
                    data folder: a restart without the database would start from older sums. Check the disk of the \
                    data folder")
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
    fn reading_takes_at_most_a_hundredth_of_the_time() {
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
        // Read within 20 ms: the pause is two seconds, and the budget is due after five.
        pace.read.insert(one.clone(), began);
        pace.rest(began, at(20));
        assert!(!pace.is_rested(at(2019)) && pace.is_rested(at(2020)));
        assert!(!pace.is_due(&one, at(4999)) && pace.is_due(&one, at(5000)) && pace.is_due(&other, began));
        // Read within 400 ms: the pause is forty seconds. A budget that is read in the pause does not shorten it.
        pace.rest(at(5000), at(5400));
        pace.rest(at(6000), at(6001));
        assert!(!pace.is_rested(at(45_399)) && pace.is_rested(at(45_400)));
    }
}
