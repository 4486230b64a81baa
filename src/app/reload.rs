//! Another configuration for a gateway that runs: read whole, built whole, then put in place of the one in force.
//! Requests under way keep what they began with. What cannot be used changes nothing.

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{Handle, changes, changes::Changes, command::Command, first_key, ledger};
use crate::{
    api::Data,
    config::{self, Config, Report, Source, StoredFault, WatchedFiles},
    domain::key::StoredKey,
    metrics::{Metrics, Reload},
    proxy::SharedState,
    proxy::{TablesError, Tls},
};

/// Where a running gateway reads its configuration again.
#[derive(Clone, Debug)]
pub struct ReloadSource {
    /// Where it was read from.
    pub source: Source,
    /// The files that it was read from.
    pub reads: WatchedFiles,
    /// Answers for the environment.
    pub env: fn(&str) -> Option<OsString>,
    /// Time between two looks at the files.
    pub look_every: Duration,
}

impl ReloadSource {
    /// Who edits a file waits for a second gladly, and a look at a few small files costs some 10 µs. A file that is
    /// being written is taken as it is where the writer pauses this long.
    pub const LOOK_EVERY: Duration = Duration::from_secs(1);
}

/// Waits for a wish or a change, and reloads.
pub(super) struct Reloader {
    /// None where the configuration is not read again.
    pub(super) origin: Option<ReloadSource>,
    /// The configuration as it was read, without keys of the store.
    pub(super) of_file: Config,
    pub(super) stored: Vec<StoredKey>,
    /// The configuration in force: both.
    pub(super) running: Config,
    /// What is known of its upstreams.
    pub(super) common: SharedState,
    pub(super) workers: Vec<Arc<Data>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: Handle,
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// With every fault and its place.
    #[error("{0}")]
    Faulty(#[from] Report),
    /// It passed its checks and still cannot be used.
    #[error(transparent)]
    Unusable(#[from] TablesError),
    /// It has no client key left, as a file that was cut has none.
    #[error(
        "no client key is left in it, or none whose secret is set: write one down, or restart if all of them are in the \
         store now"
    )]
    NoKeys,
}

/// A configuration that was read and taken.
struct AppliedReload {
    /// None where it is the one in force.
    changes: Option<Changes>,
    /// What a start would take besides.
    needs_restart: Vec<&'static str>,
}

impl Reloader {
    /// Starts it, on a thread of its own: files are read there that may be on a network file system, which can take any
    /// time, and a worker never waits. Nor does the end of the gateway: nobody joins this thread, it is told to end.
    pub(super) fn start(self, told: Receiver<Command>) -> io::Result<()> {
        thread::Builder::new().name("reload".into()).spawn(move || self.run(&told)).map(drop)
    }

    fn run(mut self, told: &Receiver<Command>) {
        let mut watch = FileWatch::default();
        let look_every = self.origin.as_ref().map_or(ReloadSource::LOOK_EVERY, |origin| origin.look_every);
        loop {
            let asked = match told.recv_timeout(look_every) {
                Ok(Command::Reload) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Command::Keys(stored)) => {
                    self.exchange_keys(stored);
                    continue;
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.handle.health.is_draining() {
                return;
            }
            let changed = self.origin.as_ref().is_some_and(|origin| watch.has_settled(&origin.reads));
            if asked || changed {
                self.reload();
            }
        }
    }

    /// Takes other keys of the store.
    fn exchange_keys(&mut self, stored: Vec<StoredKey>) {
        let config = with_stored(&self.of_file, &stored);
        let changes = Changes::between(&self.running, &config);
        if let Err(error) = self.put_in_place(config) {
            return tracing::error!(%error, "the stored keys cannot be used: the previous keys stay active");
        }
        self.stored = stored;
        let keys = changes.as_ref().and_then(|changes| changes.keys.told()).map(tracing::field::display);
        tracing::info!(keys, "stored keys changed");
    }

    /// Reads and takes the configuration, and tells what came of it.
    fn reload(&mut self) {
        let taken = self.take();
        self.metrics.reloads.count(match &taken {
            Ok(AppliedReload { changes: Some(_), .. }) => Reload::Ok,
            Ok(AppliedReload { changes: None, .. }) => Reload::Unchanged,
            Err(_) => Reload::Refused,
        });
        self.handle.health.refused(taken.is_err());
        match taken {
            Ok(taken) => taken.tell(),
            Err(ReloadError::Faulty(report)) => {
                tracing::error!(faults = report.count(), %report, "configuration refused: the previous configuration stays active");
            }
            Err(error) => tracing::error!(%error, "configuration refused: the previous configuration stays active"),
        }
    }

    /// All or nothing: everything is built before anything is put in place.
    fn take(&mut self) -> Result<AppliedReload, ReloadError> {
        let Some(origin) = &mut self.origin else {
            return Ok(AppliedReload { changes: None, needs_restart: Vec::new() });
        };
        let loaded = config::load(&origin.source, &origin.env);
        // What was refused is not read again before it changes.
        origin.reads = loaded.as_ref().map_or_else(Report::reads, |loaded| &loaded.reads).clone();
        let mut of_file = loaded?.config;
        let needs_restart = changes::keep(&self.running, &mut of_file);
        let config = with_stored(&of_file, &self.stored);
        if of_file.keys.is_empty() && !self.of_file.keys.is_empty() {
            return Err(ReloadError::NoKeys);
        }
        let changes = Changes::between(&self.running, &config);
        if changes.is_some() {
            self.put_in_place(config)?;
        }
        self.of_file = of_file;
        Ok(AppliedReload { changes, needs_restart })
    }

    fn put_in_place(&mut self, config: Config) -> Result<(), TablesError> {
        let tls = Tls::new(&config)?;
        let common = SharedState::new(&config, Some(&self.common), &self.metrics, Instant::now());
        let build = |data: &Arc<Data>| data.proxy.build(&config, &tls, &self.metrics, &common);
        let tables = self.workers.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        if let Some((data, tables)) = self.workers.iter().zip(&tables).next() {
            let before: HashSet<_> = common.spending.all().into_iter().map(|(budget, _)| budget).collect();
            tables.count_budgets(data.proxy.clock());
            let mut new = common.spending.all();
            new.retain(|(budget, _)| !before.contains(budget));
            // As at a start: what is new begins with what its key or group spent before. Nobody waits for other counters.
            if !common.spending.wait_until_read(&new, ledger::SPEND_AT_RELOAD) {
                tracing::warn!("the ledger cannot be read: new budgets start with a spend of 0 until it can");
            }
        }
        for (data, tables) in self.workers.iter().zip(tables) {
            data.proxy.swap(tables);
        }
        self.handle.configure(&config);
        self.running = config;
        self.common = common;
        Ok(())
    }
}

/// A configuration with the keys of the store. What is wrong with those is said, and leaves the others as they are.
pub(super) fn with_stored(of_file: &Config, stored: &[StoredKey]) -> Config {
    first_key::forget(of_file, stored);
    let mut config = of_file.clone();
    let mut refused = Vec::new();
    for StoredFault { name, fault, refused: is_refused } in config.add_stored(stored) {
        tracing::error!(key = name, fault, refused = is_refused, "a stored key does not fit the configuration");
        if is_refused && refused.last() != Some(&name) {
            refused.push(name);
        }
    }
    if !refused.is_empty() {
        let keys = refused.join(", ");
        tracing::warn!(keys, "stored keys disabled: this configuration cannot enforce their settings");
    }
    config
}

/// Looks for changes of files.
#[derive(Default)]
struct FileWatch {
    /// What the last look found, where that was a change.
    seen: Option<WatchedFiles>,
}

impl FileWatch {
    /// Whether two looks in a row found the same, and other than what was read: a file that is being written is not
    /// taken by half. Contents are compared, again and again, as notifications of the system tell nothing of a file that
    /// is mounted by itself or over a network, and little of a link whose target is exchanged (a `ConfigMap`).
    fn has_settled(&mut self, read: &WatchedFiles) -> bool {
        let now = read.again();
        let changed = now != *read;
        let settled = changed && self.seen.as_ref() == Some(&now);
        self.seen = (changed && !settled).then_some(now);
        settled
    }
}

impl AppliedReload {
    fn tell(&self) {
        use tracing::field::display;

        let needs_restart = (!self.needs_restart.is_empty()).then(|| self.needs_restart.join(", "));
        let Some(changes) = &self.changes else {
            match needs_restart {
                None => tracing::info!("configuration unchanged"),
                Some(needs_restart) => {
                    tracing::warn!(needs_restart, "configuration unchanged, except settings that need a restart");
                }
            }
            return;
        };
        let upstreams = changes.upstreams.told().map(display);
        let models = changes.models.told().map(display);
        let keys = changes.keys.told().map(display);
        let settings = changes.settings().map(display);
        match needs_restart {
            None => tracing::info!(upstreams, models, keys, settings, "configuration reloaded"),
            Some(needs_restart) => tracing::warn!(
                upstreams,
                models,
                keys,
                settings,
                needs_restart,
                "configuration reloaded, except settings that need a restart"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_taken_when_two_looks_found_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "[log]\n").unwrap();
        let reads = || match config::load(&Source::File(file.path().into()), &|_| None) {
            Ok(loaded) => loaded.reads,
            Err(report) => report.reads().clone(),
        };
        let read = reads();
        let mut watch = FileWatch::default();
        assert_eq!([watch.has_settled(&read), watch.has_settled(&read)], [false, false], "as it was");
        for half in ["[", "[serv", "[server]\n"] {
            fs::write(file.path(), half).unwrap();
            assert!(!watch.has_settled(&read), "still being written");
        }
        assert!(watch.has_settled(&read));
        let read = reads();
        assert_eq!([watch.has_settled(&read), watch.has_settled(&read)], [false, false], "taken already");
        fs::write(file.path(), "[log]\n").unwrap();
        assert!(!watch.has_settled(&read));
        fs::write(file.path(), "[server]\n").unwrap();
        assert!(!watch.has_settled(&read), "put back in time");
        fs::remove_file(file.path()).unwrap();
        assert_eq!([watch.has_settled(&read), watch.has_settled(&read)], [false, true], "gone");
    }
}
