//! The ledger of a running gateway: its journal, the threads that bring it on, each worker's end of it.

use std::{io, sync::Arc};

use data_encoding::HEXLOWER;

use super::{StartError, data_dir::DataDir};
use crate::{
    domain::{chance::Chance, ledger::Condition},
    metering::{Feeding, Ledger},
    metrics::Metrics,
    store::{journal::Journal, sql::Place},
};

/// The folder of the journal in the data folder.
const JOURNAL: &str = "journal";
/// The name of the data folder.
const ORIGIN: &str = "origin";

/// All of it.
#[derive(Debug)]
pub(super) struct Ledgers {
    journal: Arc<Journal>,
    condition: Arc<Condition>,
    feeding: Feeding,
    of_workers: Vec<Arc<Ledger>>,
}

impl Ledgers {
    /// Opens the journal and begins to bring what it holds into the database.
    pub(super) fn start(
        place: Place,
        data_dir: &DataDir,
        chance: Chance,
        workers: usize,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let path = data_dir.file(JOURNAL);
        let condition = Arc::clone(&metrics.ledger);
        let opened = Journal::open(path.clone(), workers, Arc::clone(&condition));
        let (journal, found) = opened.map_err(|source| StartError::Ledger { path, source })?;
        let origin = origin(data_dir, chance)?;
        let feeding = Feeding::start(place, origin, Arc::clone(&journal), found, Arc::clone(&condition));
        let feeding = feeding.map_err(StartError::Thread)?;
        Ok(Self { journal, condition, feeding, of_workers: Vec::new() })
    }

    /// That of one more worker.
    pub(super) fn of_a_worker(&mut self) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger::new(&self.journal, &self.condition));
        self.of_workers.push(Arc::clone(&ledger));
        ledger
    }

    /// Writes everything that waits, and brings it into the database. Nobody may settle any more.
    pub(super) fn end(self) {
        for ledger in self.of_workers {
            if !ledger.flush() {
                tracing::error!("the last rows of the ledger could not be written");
            }
        }
        self.feeding.end();
    }
}

/// The name of this data folder in a database that several share, made once.
fn origin(data_dir: &DataDir, chance: Chance) -> Result<Arc<str>, StartError> {
    if let Some(origin) = data_dir.read(ORIGIN)?.filter(|text| !text.trim().is_empty()) {
        return Ok(origin.trim().into());
    }
    let origin = HEXLOWER.encode(&chance.bytes::<16>()?);
    data_dir.write(ORIGIN, &format!("{origin}\n"))?;
    Ok(origin.into())
}

/// Does a worker's work, with its ledger written beside it.
pub(super) async fn beside(ledger: Arc<Ledger>, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::select! {
        biased;
        worked = work => worked,
        () = ledger.keep_writing() => Ok(()),
    }
}
