//! The ledger of a running gateway: its journal, the threads that bring it on, each worker's end of it.

use std::{io, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;

use super::{StartContext, StartError, data_dir::DataDir};
use crate::{
    budgets::Spending,
    config::Config,
    domain::{chance::Chance, ledger::LedgerStatus},
    metering::{self, BUDGETS, FeedTarget, FeedThreads, Ledger, Polling, Retention},
    metrics::Metrics,
    store::{journal::Journal, sql::DatabaseLocation},
};

/// The folder of the journal in the data folder.
const JOURNAL: &str = "journal";
/// A start waits this long for the spend of budgets. Without the database it goes on with the copy in the data folder.
pub(super) const SPEND_AT_START: Duration = Duration::from_secs(2);
/// A reload waits this long for the spend of new budgets: the ledger is read every 200 ms. A change of keys is noticed within a second, and
/// has to be in force within two.
pub(super) const SPEND_AT_RELOAD: Duration = Duration::from_millis(750);

/// The name of the data folder.
const ORIGIN: &str = "origin";

/// All of it.
#[derive(Debug)]
pub(super) struct Ledgers {
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    feeding: FeedThreads,
    of_workers: Vec<Arc<Ledger>>,
    /// Until somebody makes the calls.
    polling: Option<Polling>,
}

impl Ledgers {
    /// Opens the journal and begins to bring what it holds into the database.
    pub(super) fn start(
        config: &Config,
        data_dir: &DataDir,
        origin: Arc<str>,
        spending: &Arc<Spending>,
        world: StartContext,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let path = data_dir.file(JOURNAL);
        let condition = Arc::clone(&metrics.ledger);
        let opened = Journal::open(path.clone(), config.server.workers, Arc::clone(&condition), world.disk);
        let (journal, found) = opened.map_err(|source| StartError::Ledger { path, source })?;
        let (polls, polling) = metering::polling(config.timeouts.background_poll);
        let keep = config.keep_days.map(|days| Retention { days, zone: config.money.time_zone.clone() });
        let (place, spending) = (DatabaseLocation::of(config), Arc::clone(spending));
        let (clock, copy, unpriced) = (world.clock, data_dir.file(BUDGETS), metrics.unpriced.clone());
        let into = FeedTarget { place, origin, spending, clock, copy, polls, keep, unpriced };
        let feeding = FeedThreads::start(into, Arc::clone(&journal), found, Arc::clone(&condition));
        let feeding = feeding.map_err(StartError::Thread)?;
        Ok(Self { journal, condition, feeding, of_workers: Vec::new(), polling: Some(polling) })
    }

    /// That of one more worker.
    pub(super) fn of_a_worker(&mut self) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger::new(&self.journal, &self.condition));
        self.of_workers.push(Arc::clone(&ledger));
        ledger
    }

    /// What asks for responses in the background: for one worker.
    pub(super) fn polling(&mut self) -> Option<Polling> {
        self.polling.take()
    }

    /// Writes everything that waits, and brings it into the database. Nobody may settle any more.
    pub(super) fn end(self) {
        for ledger in self.of_workers {
            if !ledger.flush() {
                tracing::error!("the last ledger rows could not be written to the journal");
            }
        }
        self.feeding.end();
    }
}

/// The name of this data folder in a database that several share, and among those who share limits, made once.
pub(super) fn origin(data_dir: &DataDir, chance: Chance) -> Result<Arc<str>, StartError> {
    if let Some(origin) = data_dir.read(ORIGIN)?.filter(|text| !text.trim().is_empty()) {
        return Ok(origin.trim().into());
    }
    let origin = HEXLOWER.encode(&chance.bytes::<16>()?);
    data_dir.write(ORIGIN, &format!("{origin}\n"))?;
    Ok(origin.into())
}

/// Does a worker's work, with its ledger written beside it, and with `polling` beside the first worker.
pub(super) async fn beside(
    ledger: Arc<Ledger>,
    polling: Option<impl Future<Output = ()>>,
    work: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let polling = async {
        match polling {
            Some(polling) => polling.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        worked = work => worked,
        () = ledger.keep_writing() => Ok(()),
        () = polling => Ok(()),
    }
}
