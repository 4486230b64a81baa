//! Another configuration for a gateway that runs: read whole, built whole, then put in place of the one in force.
//! Requests under way keep what they began with. What cannot be used changes nothing.

use std::{
    ffi::OsString,
    io,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{Handle, StartError, World, changes, changes::Changes, data_dir::DataDir, first_key};
use crate::{
    api::Data,
    config::{self, Config, Reads, Report, Source},
    metrics::{Metrics, Reload},
    proxy::Common,
    proxy::{TablesError, Tls},
};

/// Where a running gateway reads its configuration again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it was read from.
    pub source: Source,
    /// The files that it was read from.
    pub reads: Reads,
    /// Answers for the environment.
    pub env: fn(&str) -> Option<OsString>,
    /// Time between two looks at the files.
    pub look_every: Duration,
}

impl Origin {
    /// Who edits a file waits for a second gladly, and a look at a few small files costs some 10 µs. A file that is
    /// being written is taken as it is where the writer pauses this long.
    pub const LOOK_EVERY: Duration = Duration::from_secs(1);
}

/// What a reloader is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Read it again now.
    Reload,
    /// The gateway ends.
    End,
}

/// Waits for a wish or a change, and reloads.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    /// The configuration in force.
    pub(super) running: Config,
    /// What is known of its upstreams.
    pub(super) common: Common,
    pub(super) workers: Vec<Arc<Data>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: Handle,
    /// Not held: its lock is the gateway's, which may end while this thread reads.
    pub(super) data_dir: Weak<DataDir>,
    pub(super) world: World,
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// With every fault and its place.
    #[error("{0}")]
    Faulty(#[from] Report),
    /// It passed its checks and still cannot be used.
    #[error(transparent)]
    Unusable(#[from] StartError),
    /// The gateway ended.
    #[error("the gateway has ended")]
    Ended,
}

impl From<TablesError> for Refused {
    fn from(error: TablesError) -> Self {
        Self::Unusable(error.into())
    }
}

/// A configuration that was read and taken.
struct Taken {
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
        let mut watch = Watch::default();
        loop {
            let asked = match told.recv_timeout(self.origin.look_every) {
                Ok(Command::Reload) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.handle.health.is_draining() {
                return;
            }
            if asked || watch.has_settled(&self.origin.reads) {
                self.reload();
            }
        }
    }

    /// Reads and takes the configuration, and tells what came of it.
    fn reload(&mut self) {
        let taken = self.take();
        self.metrics.reloads.count(match &taken {
            Ok(Taken { changes: Some(_), .. }) => Reload::Ok,
            Ok(Taken { changes: None, .. }) => Reload::Unchanged,
            Err(_) => Reload::Refused,
        });
        self.handle.health.refused(taken.is_err());
        match taken {
            Ok(taken) => taken.tell(),
            Err(Refused::Faulty(report)) => {
                tracing::error!(faults = report.count(), %report, "configuration refused: the one before stays in force");
            }
            Err(error) => tracing::error!(%error, "configuration refused: the one before stays in force"),
        }
    }

    /// All or nothing: everything is built before anything is put in place.
    fn take(&mut self) -> Result<Taken, Refused> {
        let loaded = config::load(&self.origin.source, &self.origin.env);
        // What was refused is not read again before it changes.
        self.origin.reads = loaded.as_ref().map_or_else(Report::reads, |loaded| &loaded.reads).clone();
        let mut config = loaded?.config;
        let needs_restart = changes::keep(&self.running, &mut config);
        let data_dir = self.data_dir.upgrade().ok_or(Refused::Ended)?;
        let made_key = first_key::ensure(&mut config, &data_dir, self.world)?;
        let Some(changes) = Changes::between(&self.running, &config) else {
            return Ok(Taken { changes: None, needs_restart });
        };
        let tls = Tls::new(&config)?;
        let common = Common::new(&config, Some(&self.common), &self.metrics, Instant::now());
        let build = |data: &Arc<Data>| data.proxy.build(&config, &tls, &self.metrics, &common);
        let tables = self.workers.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        if let Some(key) = made_key {
            // Nobody sits at a reload: it goes to a file.
            first_key::keep(key, &data_dir, World { terminal: false, ..self.world })?;
        }
        for (data, tables) in self.workers.iter().zip(tables) {
            data.proxy.swap(tables);
        }
        self.handle.configure(&config);
        self.running = config;
        self.common = common;
        Ok(Taken { changes: Some(changes), needs_restart })
    }
}

/// Looks for changes of files.
#[derive(Default)]
struct Watch {
    /// What the last look found, where that was a change.
    seen: Option<Reads>,
}

impl Watch {
    /// Whether two looks in a row found the same, and other than what was read: a file that is being written is not
    /// taken by half. Contents are compared, again and again, as notifications of the system tell nothing of a file that
    /// is mounted by itself or over a network, and little of a link whose target is exchanged (a `ConfigMap`).
    fn has_settled(&mut self, read: &Reads) -> bool {
        let now = read.again();
        let changed = now != *read;
        let settled = changed && self.seen.as_ref() == Some(&now);
        self.seen = (changed && !settled).then_some(now);
        settled
    }
}

impl Taken {
    fn tell(&self) {
        use tracing::field::display;

        let needs_restart = (!self.needs_restart.is_empty()).then(|| self.needs_restart.join(", "));
        let Some(changes) = &self.changes else {
            match needs_restart {
                None => tracing::info!("configuration unchanged"),
                Some(needs_restart) => {
                    tracing::warn!(needs_restart, "configuration unchanged but for what needs a restart");
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
                "configuration reloaded but for what needs a restart"
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
        let mut watch = Watch::default();
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
