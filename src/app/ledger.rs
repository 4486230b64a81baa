//! The ledger of a running gateway: its journal, the threads that copy rows to the database, and each worker's writer.

use std::{io, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;

use super::{StartContext, StartError, data_dir::DataDir};
use crate::{
    budgets::Spending,
    concurrent::ledger_status::LedgerStatus,
    config::Config,
    domain::random::RandomBytes,
    metering::{self, BUDGETS, FeedTarget, FeedThreads, Ledger, Polling, Retention},
    metrics::Metrics,
    store::{journal::Journal, sql::DatabaseLocation},
};

/// The folder of the journal in the data folder.
const JOURNAL_FOLDER: &str = "journal";
/// The longest time that a start waits until the spend of the budgets is read from the ledger database.
pub(super) const SPEND_TIMEOUT_AT_START: Duration = Duration::from_secs(2);
/// The longest time that a reload waits until the spend of new budgets is read. The feed thread reads the database every 200 ms.
/// A changed key waits for its spend too, and a change must take effect within two seconds.
pub(super) const SPEND_TIMEOUT_AT_RELOAD: Duration = Duration::from_millis(750);

/// The file in the data folder that holds the folder's id.
const ORIGIN_FILE: &str = "origin";

/// All parts of the ledger of a running gateway: the journal, the writers of the workers, and the threads of the database.
#[derive(Debug)]
pub(super) struct Ledgers {
    journal: Arc<Journal>,
    status: Arc<LedgerStatus>,
    feed_threads: FeedThreads,
    of_workers: Vec<Arc<Ledger>>,
    /// The poller of background responses, until the first worker takes it.
    poller: Option<Polling>,
}

impl Ledgers {
    /// Opens the journal of the ledger and starts the threads that copy its rows to the database.
    pub(super) fn start(
        config: &Config,
        data_dir: &DataDir,
        origin: Arc<str>,
        spending: &Arc<Spending>,
        context: StartContext,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let path = data_dir.file(JOURNAL_FOLDER);
        let status = Arc::clone(&metrics.ledger);
        let opened = Journal::open(path.clone(), config.server.workers, Arc::clone(&status), context.disk);
        let (journal, recovered) = opened.map_err(|source| StartError::Ledger { path, source })?;
        let (polls, poller) = metering::polling(config.timeouts.background_poll);
        let keep = config.keep_days.map(|days| Retention { days, zone: config.money.time_zone.clone() });
        let (location, spending) = (DatabaseLocation::of(config), Arc::clone(spending));
        let (clock, snapshot, unpriced) = (context.clock, data_dir.file(BUDGETS), metrics.unpriced.clone());
        let target = FeedTarget { place: location, origin, spending, clock, copy: snapshot, polls, keep, unpriced };
        let feed_threads = FeedThreads::start(target, Arc::clone(&journal), recovered, Arc::clone(&status));
        let feed_threads = feed_threads.map_err(StartError::Thread)?;
        Ok(Self { journal, status, feed_threads, of_workers: Vec::new(), poller: Some(poller) })
    }

    /// Creates the ledger writer of one more worker.
    pub(super) fn for_worker(&mut self) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger::new(&self.journal, &self.status));
        self.of_workers.push(Arc::clone(&ledger));
        ledger
    }

    /// Takes the poller, which asks providers for background responses. Only one worker runs the poller: later calls return `None`.
    pub(super) fn poller(&mut self) -> Option<Polling> {
        self.poller.take()
    }

    /// Ends the ledger at a shutdown: writes all waiting rows to the journal and to the database. The caller makes sure that no
    /// request settles any more.
    pub(super) fn end(self) {
        for ledger in self.of_workers {
            if !ledger.flush() {
                tracing::error!(
                    "at the shutdown, some ledger rows could not be written to the journal: the usage in these rows is lost. Check \
                     the disk of the data folder"
                );
            }
        }
        self.feed_threads.end();
    }
}

/// Returns the id of this data folder, and creates the id once. It identifies the process in a shared database and among the
/// replicas that share limits.
pub(super) fn origin(data_dir: &DataDir, random_bytes: RandomBytes) -> Result<Arc<str>, StartError> {
    if let Some(origin) = data_dir.read(ORIGIN_FILE)?.filter(|text| !text.trim().is_empty()) {
        return Ok(origin.trim().into());
    }
    let origin = HEXLOWER.encode(&random_bytes.bytes::<16>()?);
    data_dir.write(ORIGIN_FILE, &format!("{origin}\n"))?;
    Ok(origin.into())
}

/// Runs a worker together with its ledger writer and, on the first worker, with the poller of background responses.
pub(super) async fn run_with_ledger(
    ledger: Arc<Ledger>,
    poller: Option<impl Future<Output = ()>>,
    work: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let poller = async {
        match poller {
            Some(poller) => poller.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        finished = work => finished,
        () = ledger.keep_writing() => Ok(()),
        () = poller => Ok(()),
    }
}
