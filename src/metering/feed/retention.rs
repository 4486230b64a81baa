//! `[store] keep_days`: turns old rows into daily sums, a piece at a time, so that new rows never wait long.

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

/// How often the feed looks for old rows. A new day begins once a day, and several replicas sum up their own rows, so an hour is
/// soon enough.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

const DAY_MS: u64 = 86_400_000;

/// How many days ledger rows are kept before they become daily sums (`[store] keep_days`), and in which time zone days begin.
#[derive(Clone, Debug)]
pub struct Retention {
    /// The number of days.
    pub days: u32,
    /// The time zone of the days.
    pub zone: TimeZone,
}

/// Turns old rows into daily sums.
pub(super) struct OldRowSums {
    days: u64,
    windows: Windows,
    /// The time of the next look.
    next: Instant,
}

impl OldRowSums {
    pub(super) fn new(keep: Retention) -> Self {
        Self { days: keep.days.into(), windows: Windows::new(keep.zone), next: Instant::now() }
    }

    /// Sums up one piece, if one exists. `open` is the start time of the oldest unfinished request. Newer rows of this data folder
    /// stay.
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
        // Only whole days: with a part of a day in the sums, a daily budget would miss the other part.
        let kept = now.saturating_sub(self.days.saturating_mul(DAY_MS));
        let before = self.windows.at(Window::Day, 1, kept).from;
        let own = database.open_since(origin).await?.into_iter().chain(open).min().unwrap_or(u64::MAX);
        let removed = database.sum_up(origin, (before, own), |moment| self.windows.at(Window::Day, 1, moment)).await?;
        if removed == 0 {
            self.next = Instant::now() + LOOK_EVERY;
        } else {
            tracing::info!(
                removed,
                "old rows of the ledger were removed and replaced by daily sums, as `keep_days` in [store] says. \
                 Nothing needs to be done"
            );
        }
        Ok(())
    }
}

/// Returns the rows, from an earlier process's journal, that the daily sums do not contain yet.
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
    // A row that still exists may change as usual.
    let known = database.known(&old).await?;
    let gone: HashSet<_> = old.into_iter().filter(|id| !known.contains(id)).collect();
    if !gone.is_empty() {
        let rows = gone.len();
        tracing::warn!(
            rows,
            "the journal contains old ledger rows that the daily sums already count: Tidegate does not store these \
             rows again. Nothing needs to be done"
        );
    }
    Ok(rows.into_iter().filter(|row| !gone.contains(&row.id)).collect())
}
