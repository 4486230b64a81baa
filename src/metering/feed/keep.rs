//! `[store] keep_days`: makes sums of old rows, a piece at a time, so that no row waits long for it.

use std::{collections::HashSet, time::Duration};

use jiff::tz::TimeZone;
use tokio::time::Instant;

use crate::{
    budgets::Windows,
    domain::{
        ledger::{Row, UsageState},
        money::Window,
    },
    store::sql::{Database, DatabaseError},
};

/// Days begin once a day, and several replicas sum up their own rows: an hour later is soon enough.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

const DAY_MS: u64 = 86_400_000;

/// How long rows are kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// So many days.
    pub days: u32,
    /// Where days begin.
    pub zone: TimeZone,
}

/// Sums up what is older.
pub(super) struct OldRowSums {
    days: u64,
    windows: Windows,
    /// When there may be something again.
    next: Instant,
}

impl OldRowSums {
    pub(super) fn new(keep: Retention) -> Self {
        Self { days: keep.days.into(), windows: Windows::new(keep.zone), next: Instant::now() }
    }

    /// Sums up one piece, if there is any. Rows of this data folder stay from `open` on: when the oldest request began that is
    /// not over.
    pub(super) async fn sum_up(
        &mut self,
        database: &mut Database,
        origin: &str,
        now: u64,
        open: Option<u64>,
    ) -> Result<(), DatabaseError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        // Whole days: a part of a day is in the rows or in the sums, and budgets of a day would not find the other part.
        let kept = now.saturating_sub(self.days.saturating_mul(DAY_MS));
        let before = self.windows.at(Window::Day, 1, kept).from;
        let own = database.open_since(origin).await?.into_iter().chain(open).min().unwrap_or(u64::MAX);
        let removed = database.sum_up(origin, (before, own), |moment| self.windows.at(Window::Day, 1, moment)).await?;
        if removed == 0 {
            self.next = Instant::now() + LOOK_EVERY;
        } else {
            tracing::info!(removed, "old rows of the ledger were replaced by their daily sums");
        }
        Ok(())
    }
}

/// Of rows that a journal of before holds, those whose daily sums do not have them yet.
pub(super) async fn not_summed_up<'a>(
    database: &mut Database,
    origin: &str,
    rows: Vec<Row<'a>>,
) -> Result<Vec<Row<'a>>, DatabaseError> {
    let before = database.summed_up(origin).await?;
    let is_old = |row: &Row<'_>| row.id.millis() < before && row.state != UsageState::Open;
    let old: Vec<_> = rows.iter().filter(|row| is_old(row)).map(|row| row.id).collect();
    if old.is_empty() {
        return Ok(rows);
    }
    // What is still a row may change as ever.
    let known = database.known(&old).await?;
    let gone: HashSet<_> = old.into_iter().filter(|id| !known.contains(id)).collect();
    if !gone.is_empty() {
        let rows = gone.len();
        tracing::warn!(rows, "the journal holds rows that are in the daily sums already: they are not stored again");
    }
    Ok(rows.into_iter().filter(|row| !gone.contains(&row.id)).collect())
}
