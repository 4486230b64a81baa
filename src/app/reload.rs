//! Reloads: reads and builds a whole new configuration, then replaces the running one. Requests in progress keep the
//! old one. A configuration with any error changes nothing.

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
    api::DataPlane,
    config::{self, Config, Report, Source, StoredFault, WatchedFiles},
    domain::key::StoredKey,
    metrics::{Metrics, Reload},
    proxy::SharedState,
    proxy::{TablesError, Tls},
};

/// Where a running gateway reads its configuration again, and how often it looks for changed files.
#[derive(Clone, Debug)]
pub struct ReloadSource {
    /// The source of the configuration.
    pub source: Source,
    /// The files that the configuration was read from.
    pub reads: WatchedFiles,
    /// Looks up an environment variable.
    pub env: fn(&str) -> Option<OsString>,
    /// The time between two looks at the files.
    pub look_interval: Duration,
}

impl ReloadSource {
    /// How often a running gateway looks for changed configuration files. An operator gladly waits a second after an edit, and a
    /// look costs some 10 µs. A writer that pauses longer than this in the middle of a file has its unfinished file read.
    pub const LOOK_EVERY: Duration = Duration::from_secs(1);
}

/// Reloads the configuration of a running gateway when a command arrives or a file changed.
pub(super) struct Reloader {
    /// `None` if the configuration is not read again.
    pub(super) origin: Option<ReloadSource>,
    /// The configuration from the files, without the stored keys.
    pub(super) file_config: Config,
    pub(super) stored: Vec<StoredKey>,
    /// The configuration in force: the files' one with the stored keys.
    pub(super) running: Config,
    /// State that outlives a reload, such as the health states of upstreams.
    pub(super) common: SharedState,
    pub(super) workers: Vec<Arc<DataPlane>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: Handle,
}

/// Why a reload failed.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// The configuration has errors. The report names each with its place.
    #[error("{0}")]
    Faulty(#[from] Report),
    /// The configuration passed its checks and still cannot be used.
    #[error(transparent)]
    Unusable(#[from] TablesError),
    /// The new configuration has no client key left, as a truncated file has none.
    #[error(
        "the new configuration has no client key, or no client key whose secret is set. Add a key, or restart Tidegate \
         if all keys are in the store now"
    )]
    NoKeys,
}

/// The result of a successful reload.
struct AppliedReload {
    /// `None` if the new configuration equals the running one.
    changes: Option<Changes>,
    /// Settings that changed in the file and take effect only after a restart.
    needs_restart: Vec<&'static str>,
}

impl Reloader {
    /// Starts the thread that reloads the configuration. It reads files that may be on a slow network file system, and a worker
    /// must never wait for that. Nothing joins this thread at shutdown either: it gets [`Command::End`].
    pub(super) fn start(self, commands: Receiver<Command>) -> io::Result<()> {
        thread::Builder::new().name("reload".into()).spawn(move || self.run(&commands)).map(drop)
    }

    fn run(mut self, commands: &Receiver<Command>) {
        let mut watch = FileWatch::default();
        let look_interval = self.origin.as_ref().map_or(ReloadSource::LOOK_EVERY, |origin| origin.look_interval);
        loop {
            let requested = match commands.recv_timeout(look_interval) {
                Ok(Command::Reload) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Command::Keys(stored)) => {
                    self.replace_stored_keys(stored);
                    continue;
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.handle.health.is_draining() {
                return;
            }
            let changed = self.origin.as_ref().is_some_and(|origin| watch.has_settled(&origin.reads));
            if requested || changed {
                self.reload();
            }
        }
    }

    /// Replaces the stored keys.
    fn replace_stored_keys(&mut self, stored: Vec<StoredKey>) {
        let config = with_stored(&self.file_config, &stored);
        let changes = Changes::between(&self.running, &config);
        if let Err(error) = self.put_in_place(config) {
            return tracing::error!(%error, "the client keys in the database cannot be used with this configuration: \
                the previous keys stay active. Correct the settings that `error` names");
        }
        self.stored = stored;
        let keys = changes.as_ref().and_then(|changes| changes.keys.summary()).map(tracing::field::display);
        tracing::info!(
            keys,
            "the client keys in the database changed: Tidegate uses the new keys now. Nothing needs to be done"
        );
    }

    /// Reads the configuration, puts it in force, and reports the result in log, metrics and readiness.
    fn reload(&mut self) {
        let applied = self.apply();
        self.metrics.reloads.count(match &applied {
            Ok(AppliedReload { changes: Some(_), .. }) => Reload::Ok,
            Ok(AppliedReload { changes: None, .. }) => Reload::Unchanged,
            Err(_) => Reload::Refused,
        });
        self.handle.health.refused(applied.is_err());
        match applied {
            Ok(applied) => applied.log(),
            Err(ReloadError::Faulty(report)) => {
                tracing::error!(faults = report.count(), %report, "configuration refused: the previous configuration \
                    stays active. Correct the new configuration and reload again");
            }
            Err(error) => tracing::error!(%error, "configuration refused: the previous configuration stays active. \
                Correct the new configuration and reload again"),
        }
    }

    /// Builds everything before it replaces anything: a reload changes all or nothing.
    fn apply(&mut self) -> Result<AppliedReload, ReloadError> {
        let Some(origin) = &mut self.origin else {
            return Ok(AppliedReload { changes: None, needs_restart: Vec::new() });
        };
        let loaded = config::load(&origin.source, &origin.env);
        // A refused configuration is not read again until its files change.
        origin.reads = loaded.as_ref().map_or_else(Report::reads, |loaded| &loaded.reads).clone();
        let mut file_config = loaded?.config;
        let needs_restart = changes::keep_running_settings(&self.running, &mut file_config);
        let config = with_stored(&file_config, &self.stored);
        if file_config.keys.is_empty() && !self.file_config.keys.is_empty() {
            return Err(ReloadError::NoKeys);
        }
        let changes = Changes::between(&self.running, &config);
        if changes.is_some() {
            self.put_in_place(config)?;
        }
        self.file_config = file_config;
        Ok(AppliedReload { changes, needs_restart })
    }

    fn put_in_place(&mut self, config: Config) -> Result<(), TablesError> {
        let tls = Tls::new(&config)?;
        let common = SharedState::new(&config, Some(&self.common), &self.metrics, Instant::now());
        let build = |data: &Arc<DataPlane>| data.proxy.build(&config, &tls, &self.metrics, &common);
        let tables = self.workers.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        if let Some((data, tables)) = self.workers.iter().zip(&tables).next() {
            let before: HashSet<_> = common.spending.all().into_iter().map(|(budget, _)| budget).collect();
            tables.count_budgets(data.proxy.clock());
            let mut new = common.spending.all();
            new.retain(|(budget, _)| !before.contains(budget));
            // As at a start, a new budget begins with what its key or group spent before. Existing budgets know their
            // spend already.
            if !common.spending.wait_until_read(&new, ledger::SPEND_TIMEOUT_AT_RELOAD) {
                tracing::warn!(
                    "the ledger database cannot be read: new budgets start with a spend of 0 until the database is \
                     back. Check the database"
                );
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

/// Returns a configuration with the client keys of the store added. A key that does not fit is logged and does not affect the others.
pub(super) fn with_stored(file_config: &Config, stored: &[StoredKey]) -> Config {
    first_key::remove_file_if_ended(file_config, stored);
    let mut config = file_config.clone();
    let mut refused = Vec::new();
    for StoredFault { name, fault, refused: is_refused } in config.add_stored(stored) {
        tracing::error!(
            key = name,
            fault,
            refused = is_refused,
            "a client key in the database does not fit the configuration: `fault` says why, and `refused` whether \
             Tidegate disabled the key. Change the key or the configuration"
        );
        if is_refused && refused.last() != Some(&name) {
            refused.push(name);
        }
    }
    if !refused.is_empty() {
        let keys = refused.join(", ");
        tracing::warn!(
            keys,
            "some client keys in the database are disabled: this configuration cannot enforce the settings of these keys, \
             so requests with the keys are refused. Change the keys or the configuration"
        );
    }
    config
}

/// Detects changed files.
#[derive(Default)]
struct FileWatch {
    /// What the last look found, if that was a change.
    last_change: Option<WatchedFiles>,
}

impl FileWatch {
    /// Whether two looks in a row found the same change: a file is not read while it is being written. Contents are
    /// compared by polling. File system notifications do not cover network mounts or a file that is mounted by itself,
    /// nor reliably a link whose target is replaced, such as in a `ConfigMap`.
    fn has_settled(&mut self, read: &WatchedFiles) -> bool {
        let now = read.again();
        let changed = now != *read;
        let settled = changed && self.last_change.as_ref() == Some(&now);
        self.last_change = (changed && !settled).then_some(now);
        settled
    }
}

impl AppliedReload {
    fn log(&self) {
        use tracing::field::display;

        let needs_restart = (!self.needs_restart.is_empty()).then(|| self.needs_restart.join(", "));
        let Some(changes) = &self.changes else {
            match needs_restart {
                None => {
                    tracing::info!("configuration unchanged: the reload found no difference. Nothing needs to be done")
                }
                Some(needs_restart) => {
                    tracing::warn!(
                        needs_restart,
                        "configuration unchanged, except settings that need a restart: Tidegate keeps the old values \
                         of these settings until a restart"
                    );
                }
            }
            return;
        };
        let upstreams = changes.upstreams.summary().map(display);
        let models = changes.models.summary().map(display);
        let keys = changes.keys.summary().map(display);
        let settings = changes.settings().map(display);
        match needs_restart {
            None => tracing::info!(
                upstreams,
                models,
                keys,
                settings,
                "configuration reloaded: new requests use the new settings. Nothing needs to be done"
            ),
            Some(needs_restart) => tracing::warn!(
                upstreams,
                models,
                keys,
                settings,
                needs_restart,
                "configuration reloaded, except settings that need a restart: Tidegate keeps the old values of these \
                 settings until a restart"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_counts_once_two_looks_found_the_same_contents() {
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
