//! The composition root: the only place that knows every part. Builds the gateway from a configuration, runs it on
//! one thread a worker and one for control, ends it in order.

mod answer;
mod connection;
pub mod data_dir;
mod files;
mod first_key;
mod framing;
mod log_line;
mod log_writer;
mod progress;
mod server;
mod shutdown;
mod socket;
pub mod telemetry;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use secrecy::SecretString;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

use self::{
    connection::Shared,
    data_dir::{DataDir, DataDirError},
    progress::Deadlines,
    shutdown::Shutdown,
};
use crate::{
    api::{self, Admin, Data, Health},
    config::{self, Config},
    domain::{
        chance::{Chance, NoChance},
        clock::Clock,
    },
    metrics::Metrics,
    proxy::{Proxy, Tables, TablesError, Tls},
};

/// Connections to the admin plane at once: scrapers and probes, not clients.
const ADMIN_CONNECTIONS: usize = 256;

/// What a start takes from the world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Wall-clock time.
    pub clock: Clock,
    /// Randomness.
    pub chance: Chance,
    /// Whether a person sees what is printed: only then may a new key be shown.
    pub terminal: bool,
}

/// Why a start failed. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The configuration passed its checks and still cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Neither ids nor a key can be made.
    #[error("random numbers cannot be had: {0}")]
    Chance(#[from] NoChance),
    /// The hash of the first key is there and is none.
    #[error(
        "the first client key cannot be known: {0} does not hold a SHA-256 of 64 hexadecimal digits; put the file \
         back as it was, or delete it to have a new key made"
    )]
    FirstKey(PathBuf),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// The setting that names it.
        setting: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Running {
    /// Where clients reach it.
    pub listen: SocketAddr,
    /// Where its operator does.
    pub admin_listen: SocketAddr,
    /// Where `/metrics` is alone, if wanted.
    pub metrics_listen: Option<SocketAddr>,
    /// The key that was made because there was none, for a terminal.
    pub first_key: Option<SecretString>,
    handle: Handle,
    drain: Duration,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    _data_dir: DataDir,
}

/// Ends a gateway from another thread.
#[derive(Clone, Debug)]
pub struct Handle {
    data: Shutdown,
    admin: Shutdown,
    health: Arc<Health>,
}

impl Handle {
    /// Takes no new connections; requests under way go on.
    pub fn drain(&self) {
        self.health.drain();
        self.data.drain();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.health.drain();
        self.data.stop();
        self.admin.stop();
    }
}

/// Starts a gateway. Everything is checked and bound before anything runs.
///
/// # Errors
/// When a part of it cannot be had; nothing runs then.
pub fn start(mut config: Config, world: World) -> Result<Running, StartError> {
    let data_dir = DataDir::open(&config.server.data_dir)?;
    let made_key = first_key::ensure(&mut config, &data_dir, world)?;
    let tls = Tls::new(&config)?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(&config));

    // Sockets are made inside a runtime; the control thread takes it over.
    let control = runtime()?;
    let bound = {
        let _inside = control.enter();
        Bound::new(&config.server)?
    };
    let first_key = made_key.map_or(Ok(None), |key| first_key::keep(key, &data_dir, world))?;

    let handle = Handle { data: Shutdown::default(), admin: Shutdown::default(), health: Arc::clone(&health) };
    let deadlines = Deadlines::from(&config.timeouts);
    let slots = Arc::new(Semaphore::new(files::connections(config.server.max_connections)));
    let mut workers = Vec::with_capacity(bound.data.len());
    for (index, listener) in bound.data.into_iter().enumerate() {
        let proxy = Proxy::new(Tables::new(&config)?, &tls, &metrics, world.clock, world.chance)?;
        let shared = Shared {
            router: api::data(Arc::new(Data { proxy, health: Arc::clone(&health) })),
            deadlines,
            shutdown: handle.data.clone(),
            metrics: Arc::clone(&metrics),
        };
        let serving = server::run(listener, shared, Arc::clone(&slots));
        workers.push(spawn(format!("worker-{index}"), runtime()?, serving)?);
    }
    let admin = Admin { metrics, health };
    let shared = |router| Shared {
        router,
        deadlines,
        shutdown: handle.admin.clone(),
        // Its connections are not clients' and are not counted among them.
        metrics: Arc::default(),
    };
    let full = server::run(bound.admin, shared(api::admin(admin.clone())), Arc::new(Semaphore::new(ADMIN_CONNECTIONS)));
    let bare = bound.metrics.map(|listener| {
        server::run(listener, shared(api::metrics_only(admin)), Arc::new(Semaphore::new(ADMIN_CONNECTIONS)))
    });
    let control = spawn("control".into(), control, async move {
        match bare {
            Some(bare) => tokio::try_join!(full, bare).map(|_| ()),
            None => full.await,
        }
    })?;
    Ok(Running {
        listen: bound.listen,
        admin_listen: bound.admin_listen,
        metrics_listen: bound.metrics_listen,
        first_key,
        handle,
        drain: config.timeouts.drain,
        workers,
        control,
        _data_dir: data_dir,
    })
}

impl Running {
    /// To end it from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// How long requests under way may take once it drains.
    pub fn drain_limit(&self) -> Duration {
        self.drain
    }

    /// Waits until the gateway has ended, which somebody has to ask its handle for.
    ///
    /// The admin plane serves on until the last request is out, so that a drain can be watched.
    pub fn join(self) {
        for worker in self.workers {
            // A worker that panicked has ended too.
            let _ = worker.join();
        }
        self.handle.stop();
        let _ = self.control.join();
    }
}

/// Every listener, before anything runs.
struct Bound {
    data: Vec<std::net::TcpListener>,
    listen: SocketAddr,
    admin: std::net::TcpListener,
    admin_listen: SocketAddr,
    metrics: Option<std::net::TcpListener>,
    metrics_listen: Option<SocketAddr>,
}

impl Bound {
    fn new(server: &config::Server) -> Result<Self, StartError> {
        let refused = |address, setting| move |source| StartError::Listen { address, setting, source };
        let data = server::listen_shared(server.listen, server.workers).map_err(refused(server.listen, "listen"))?;
        let listen = data.first().map_or(Ok(server.listen), std::net::TcpListener::local_addr);
        let listen = listen.map_err(refused(server.listen, "listen"))?;
        let one = |address, setting| {
            let listener = server::listen(address).map_err(refused(address, setting))?;
            let address = listener.local_addr().map_err(refused(address, setting))?;
            Ok::<_, StartError>((listener, address))
        };
        let (admin, admin_listen) = one(server.admin_listen, "admin_listen")?;
        let metrics = server.metrics_listen.map(|address| one(address, "metrics_listen")).transpose()?;
        let (metrics, metrics_listen) = metrics.unzip();
        Ok(Self { data, listen, admin, admin_listen, metrics, metrics_listen })
    }
}

fn runtime() -> Result<Runtime, StartError> {
    Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)
}

/// Runs `work` on a thread of its own, with a runtime of its own.
fn spawn(
    name: String,
    runtime: Runtime,
    work: impl Future<Output = io::Result<()>> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let run = move || {
        if let Err(error) = runtime.block_on(work) {
            tracing::error!(%error, "a listener failed");
        }
        // A name that is being resolved cannot be interrupted: waiting for it would hold the end up for many seconds.
        runtime.shutdown_background();
    };
    thread::Builder::new().name(name).spawn(run).map_err(StartError::Thread)
}
