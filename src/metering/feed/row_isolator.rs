//! Isolates rows whose data the database refuses, so that all other rows do not wait for them.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    concurrent::ledger_status::LedgerStatus,
    domain::{
        id::RequestId,
        ledger::{Row, UsageState},
    },
    store::{
        journal::{self, Journal},
        sql::{Database, DatabaseError},
    },
};

/// Stores rows, and isolates the refused ones.
pub(super) struct RowIsolator {
    /// Names the data folder.
    origin: Arc<str>,
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    /// Quarantined rows. The feed reads some of them again after a database failure.
    aside: HashSet<(RequestId, UsageState)>,
}

impl RowIsolator {
    pub(super) fn new(origin: &Arc<str>, journal: &Arc<Journal>, condition: &Arc<LedgerStatus>) -> Self {
        let (origin, journal, condition) = (Arc::clone(origin), Arc::clone(journal), Arc::clone(condition));
        Self { origin, journal, condition, aside: HashSet::new() }
    }

    /// Stores rows. If the database refuses the data of some rows, halving finds these rows. They are tried again without the
    /// texts of clients and providers. A row that the database refuses even then is quarantined.
    ///
    /// # Errors
    /// When the database accepts no rows: it is unavailable or full.
    pub(super) async fn store(&mut self, database: &mut Database, rows: &[Row<'_>]) -> Result<(), DatabaseError> {
        let mut parts = vec![rows];
        while let Some(part) = parts.pop() {
            match database.store(&self.origin, part).await {
                Ok(changed) => self.count(&changed),
                Err(error) if !error.is_about_data() => return Err(error),
                Err(error) => match part {
                    [row] => self.store_bare(database, row, &error).await?,
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        // `pop` takes the first half first, because it may have the earlier row of the same request.
                        parts.extend([second, first]);
                    }
                },
            }
        }
        Ok(())
    }

    async fn store_bare(
        &mut self,
        database: &mut Database,
        row: &Row<'_>,
        error: &DatabaseError,
    ) -> Result<(), DatabaseError> {
        let bare = Row { model: None, upstream_model: None, response_id: None, ..*row };
        match database.store(&self.origin, &[bare]).await {
            Ok(changed) => {
                self.count(&changed);
                tracing::warn!(id = %row.id, %error, "the ledger database refuses the texts of a ledger row, for \
                    example the model name: Tidegate stores the row without these texts. Nothing needs to be done");
            }
            Err(error) if !error.is_about_data() => return Err(error),
            Err(error) => self.quarantine(row, &error),
        }
        Ok(())
    }

    fn count(&self, changed: &[(UsageState, u64)]) {
        // An open request is counted when it is settled.
        let over = changed.iter().filter(|(state, _)| *state != UsageState::Open);
        over.for_each(|(state, count)| self.condition.count(*state, *count));
    }

    fn quarantine(&mut self, row: &Row<'_>, error: &DatabaseError) {
        if !self.aside.insert((row.id, row.state)) {
            return;
        }
        self.condition.quarantined_rows.fetch_add(1, Ordering::Relaxed);
        let mut record = Vec::new();
        journal::encode(row, &mut record);
        let kept = self.journal.keep_aside(&record);
        let (id, key, state, cost) = (row.id, row.key, row.state.name(), row.cost);
        tracing::error!(%id, key, state, cost, %error, "the ledger database refuses a ledger row: Tidegate quarantines \
            the row in a file of the data folder, and the row is missing in the ledger. The field `error` has the cause");
        if let Err(error) = kept {
            tracing::error!(%id, %error, "a ledger row could not be written to the quarantine file: the row is lost. \
                Check the disk of the data folder");
        }
    }
}
