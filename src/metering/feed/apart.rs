//! Rows that a database does not take for what is in them, apart from all others, which must not wait for them.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    domain::{
        id::RequestId,
        ledger::{LedgerStatus, Row, UsageState},
    },
    store::{
        journal::{self, Journal},
        sql::{Database, DatabaseError},
    },
};

/// Stores rows, and tells those apart that are not taken.
pub(super) struct RowIsolator {
    /// Names the data folder.
    origin: Arc<str>,
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    /// What was put aside: some of it is read again where the database goes away.
    aside: HashSet<(RequestId, UsageState)>,
}

impl RowIsolator {
    pub(super) fn new(origin: &Arc<str>, journal: &Arc<Journal>, condition: &Arc<LedgerStatus>) -> Self {
        let (origin, journal, condition) = (Arc::clone(origin), Arc::clone(journal), Arc::clone(condition));
        Self { origin, journal, condition, aside: HashSet::new() }
    }

    /// Stores rows. Those that are refused for what is in them are found by halves, and tried once more without what people and
    /// providers may have written into them. What the database takes in no form is put aside for a person.
    ///
    /// # Errors
    /// When the database does not take any: it is away, or full.
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
                        // The first one is taken first: of one request it may hold what came before.
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
                tracing::warn!(id = %row.id, %error, "the database refuses the texts of a ledger row: the row is stored without them");
            }
            Err(error) if !error.is_about_data() => return Err(error),
            Err(error) => self.put_aside(row, &error),
        }
        Ok(())
    }

    fn count(&self, changed: &[(UsageState, u64)]) {
        // One that is open is counted when it is known what came of it.
        let over = changed.iter().filter(|(state, _)| *state != UsageState::Open);
        over.for_each(|(state, count)| self.condition.count(*state, *count));
    }

    fn put_aside(&mut self, row: &Row<'_>, error: &DatabaseError) {
        if !self.aside.insert((row.id, row.state)) {
            return;
        }
        self.condition.quarantined_rows.fetch_add(1, Ordering::Relaxed);
        let mut record = Vec::new();
        journal::encode(row, &mut record);
        let kept = self.journal.keep_aside(&record);
        let (id, key, state, cost) = (row.id, row.key, row.state.name(), row.cost);
        tracing::error!(%id, key, state, cost, %error, "the database refuses a ledger row: the row is quarantined");
        if let Err(error) = kept {
            tracing::error!(%id, %error, "a ledger row could not be quarantined and is lost");
        }
    }
}
