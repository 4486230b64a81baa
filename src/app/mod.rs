//! The composition root: the only module that knows all others. It builds the gateway from a configuration, runs one
//! thread for each worker and one for control, and shuts all of them down in order.

mod alerts;
mod changes;
mod clients;
mod command;
pub mod data_dir;
mod files;
mod first_key;
mod grace;
mod handle;
mod keys;
mod ledger;
mod listeners;
mod log_line;
mod log_writer;
mod memory;
mod rejections;
mod reload;
mod sharing;
mod start_context;
mod start_error;
pub mod telemetry;

use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use axum::Router;
use secrecy::SecretString;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Semaphore, watch},
};

use self::{
    alerts::AlertThread, clients::ClientConnections, data_dir::DataDir, keys::StoredKeys, ledger::Ledgers,
    listeners::BoundListeners, memory::ADMIN_CONNECTIONS, reload::Reloader,
};
use crate::{
    affinity::AffinityStoreThread,
    api::{self, AdminPlane, DataPlane, Health},
    concurrent::random_source::RandomSource,
    config::{Config, Listen},
    limits::LimitsInRedis,
    metering::Statements,
    metrics::Metrics,
    proxy::{DrainTasks, Proxy, SharedState, Tables, Tls, WorkerContext, polls},
    server::{self, Deadlines, Listener, Shutdown, TlsContext},
    store::{origins, sql::DatabaseLocation},
};

pub use alerts::AlertTimes;
pub use grace::Grace;
pub use handle::Handle;
pub use memory::MemoryBounds;
pub use reload::ReloadSource;
pub use start_context::StartContext;
pub use start_error::StartError;

/// A running gateway, with its addresses and threads. The caller joins it to wait for its end.
#[derive(Debug)]
pub struct Running {
    /// The address of the data plane.
    pub listen: Listen,
    /// The address of the admin plane.
    pub admin_listen: Listen,
    /// The address that serves only `/metrics`, if configured.
    pub metrics_listen: Option<Listen>,
    /// The most memory that the gateway may use.
    pub memory: MemoryBounds,
    /// The first key, if this start created it and a terminal must show it.
    pub first_key: Option<SecretString>,
    handle: Handle,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    ledgers: Ledgers,
    shared: Option<Arc<LimitsInRedis>>,
    affinity_store: AffinityStoreThread,
    /// The thread that watches the stored keys runs until this is dropped.
    _keys_watched: mpsc::Sender<()>,
    alerting: AlertThread,
    _data_dir: DataDir,
}

/// Starts the gateway. Everything is checked and bound before any thread runs. With an `origin`, the gateway reads its
/// configuration again from there when [`Handle::reload`] is called or a file changes.
///
/// # Errors
/// If any part cannot be created. Nothing runs then.
pub fn start(file_config: Config, origin: Option<ReloadSource>, context: StartContext) -> Result<Running, StartError> {
    let data_dir = DataDir::open(&file_config.server.data_dir)?;
    let tls = Tls::new(&file_config)?;
    let metrics = Arc::new(Metrics::default());
    let (keys_status, ledger_status) = (Arc::clone(&metrics.keys), Arc::clone(&metrics.ledger));
    let mut keys = StoredKeys::open(DatabaseLocation::of(&file_config), &data_dir, keys_status, ledger_status)
        .map_err(StartError::Thread)?;
    let new_key = first_key::create_if_none(file_config.keys.len(), &keys, context)?;
    keys.stored.keys.extend(new_key.as_ref().map(|new_key| new_key.key.clone()));
    let config = reload::with_stored(&file_config, &keys.stored.keys);
    let mut common = SharedState::new(&config, None, &metrics, tokio::time::Instant::now());
    let health = Arc::new(Health::new(&config, &metrics.keys));

    let data_folder_name = ledger::origin(&data_dir, context.random_bytes)?;
    let shared = sharing::start(&config, context, &data_folder_name, &metrics, &mut common)?;

    // Sockets must be created inside a runtime. The control thread takes this runtime over.
    let control = runtime()?;
    let bound = BoundListeners::new(&control, &config.server)?;
    let mut ledgers = Ledgers::start(&config, &data_dir, data_folder_name, &common.spending, context, &metrics)?;
    let statements = Statements::start(DatabaseLocation::of(&config)).map_err(StartError::Thread)?;
    let affinity_store = affinity_store(&config, &metrics, context)?;
    let first_key = new_key.map_or(Ok(None), |new_key| first_key::store(new_key, &mut keys, &data_dir, context))?;

    let (reloader, commands) = mpsc::channel();
    let certificates = clients::certificates(&config);
    let acceptor = certificates.clone().map(server::acceptor).transpose()?;
    let parts = handle::HandleParts {
        health: Arc::clone(&health),
        certificates,
        reloader,
        bodies: metrics.bodies.clone(),
        origins: Arc::clone(&affinity_store.origins),
    };
    let (handle, deadlines, latest_config) = Handle::new(&config, parts);
    let connections = files::connections(config.server.max_connections);
    let slots = Arc::new(Semaphore::new(connections));
    let drains = DrainTasks::new(&slots, connections);
    let secure = acceptor.map(|acceptor| TlsContext { acceptor, slots: Arc::clone(&slots) });
    let mut data = Vec::with_capacity(bound.data.len());
    let mut workers = Vec::with_capacity(bound.data.len());
    for (index, listener) in bound.data.into_iter().enumerate() {
        let random = Arc::new(RandomSource::new(context.random_bytes)?);
        let tables = Tables::new(&config, &tls, &metrics, &common, &random, None)?;
        if index == 0 {
            tables.count_budgets(context.clock);
            common.spending.wait_until_read(&common.spending.all(), ledger::SPEND_TIMEOUT_AT_START);
        }
        let ledger = ledgers.for_worker();
        let drains = Arc::new(drains.for_another_worker());
        let worker_context = WorkerContext {
            ledger: Arc::clone(&ledger),
            drains: Arc::clone(&drains),
            origins: Arc::clone(&affinity_store.origins),
            statements: statements.clone(),
        };
        let proxy = Arc::new(Proxy::new(tables, worker_context, context.clock, context.random_bytes, random)?);
        let polling = ledgers.poller().map(|polling| polls::keep_polling(Arc::clone(&proxy), polling));
        let state = Arc::new(DataPlane { proxy, health: Arc::clone(&health) });
        data.push(Arc::clone(&state));
        let serving = serving_data(state, &config, &handle, &metrics, secure.clone());
        let serving = server::run(listener, serving, deadlines.clone(), Arc::clone(&slots));
        let serving = ledger::run_with_ledger(ledger, polling, serve_and_drain(serving, drains, handle.data.clone()));
        workers.push(spawn(format!("worker-{index}"), runtime()?, serving)?);
    }
    let first_worker = data.first().map(Arc::clone).ok_or(StartError::NoWorker)?;
    let alerting = alert(&first_worker, &metrics, &common, latest_config, &data_dir, context)?;
    let admin = AdminPlane { data: first_worker, metrics: Arc::clone(&metrics), health };
    let serving = serve_admin(bound.admin, bound.metrics, admin, handle.admin.clone(), deadlines);
    let control = spawn("control".into(), control, serving)?;
    let memory = MemoryBounds::new(&config, connections);
    let (keys_watched, stop) = mpsc::channel();
    let stored = keys.stored.keys.clone();
    keys.watch(handle.reloader.clone(), stop).map_err(StartError::Thread)?;
    let reloader = Reloader {
        origin,
        file_config,
        stored,
        running: config,
        common,
        workers: data,
        metrics,
        handle: handle.clone(),
    };
    reloader.start(commands).map_err(StartError::Thread)?;
    Ok(Running {
        listen: bound.listen,
        admin_listen: bound.admin_listen,
        metrics_listen: bound.metrics_listen,
        memory,
        first_key,
        handle,
        workers,
        control,
        ledgers,
        shared,
        affinity_store,
        _keys_watched: keys_watched,
        alerting,
        _data_dir: data_dir,
    })
}

fn affinity_store(
    config: &Config,
    metrics: &Metrics,
    context: StartContext,
) -> Result<AffinityStoreThread, StartError> {
    let (location, status) = (origins::OriginStoreLocation::of(config), Arc::clone(&metrics.affinity));
    AffinityStoreThread::start(location, &config.affinity, context.clock, context.random_bytes, status)
        .map_err(StartError::Thread)
}

/// Makes the context of the HTTP server that all client connections of a worker share.
fn serving_data(
    state: Arc<DataPlane>,
    config: &Config,
    handle: &Handle,
    metrics: &Arc<Metrics>,
    tls: Option<TlsContext>,
) -> server::ServerContext<Router> {
    server::ServerContext {
        service: api::data(state),
        deadlines: clients::deadlines(&config.timeouts),
        shutdown: handle.data.clone(),
        observer: Arc::new(ClientConnections(Arc::clone(metrics))),
        tls,
        heartbeat: Arc::default(),
    }
}

/// Starts the thread for alerts.
fn alert(
    data: &Arc<DataPlane>,
    metrics: &Arc<Metrics>,
    common: &SharedState,
    config: watch::Receiver<Arc<Config>>,
    data_dir: &DataDir,
    context: StartContext,
) -> Result<AlertThread, StartError> {
    let (data, metrics, spending) = (Arc::clone(data), Arc::clone(metrics), Arc::clone(&common.spending));
    let (clock, times) = (context.clock, context.alert_times);
    let sources = alerts::AlertSources { data, metrics, spending, config, clock, times };
    alerts::start(sources, data_dir).map_err(StartError::Thread)
}

/// Serves until shutdown, then drains the answers whose clients left.
async fn serve_and_drain(
    serving: impl Future<Output = io::Result<()>>,
    drains: Arc<DrainTasks>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let served = serving.await;
    drains.end(shutdown.stopped()).await;
    served
}

/// Serves the admin plane and, if configured, the listener for `/metrics` alone.
async fn serve_admin(
    admin: Listener,
    metrics_only: Option<Listener>,
    state: AdminPlane,
    shutdown: Shutdown,
    deadlines: watch::Receiver<Deadlines>,
) -> io::Result<()> {
    let serve = |listener: Listener, router| {
        let serving = server::ServerContext {
            service: router,
            deadlines: *deadlines.borrow(),
            shutdown: shutdown.clone(),
            // A fresh observer: connections to the admin plane do not count as clients' connections.
            observer: Arc::<ClientConnections>::default(),
            tls: None,
            heartbeat: Arc::default(),
        };
        server::run(listener, serving, deadlines.clone(), Arc::new(Semaphore::new(ADMIN_CONNECTIONS)))
    };
    let admin = serve(admin, api::admin(state.clone()));
    match metrics_only {
        Some(metrics_only) => tokio::try_join!(admin, serve(metrics_only, api::metrics_only(state))).map(|_| ()),
        None => admin.await,
    }
}

impl Running {
    /// Returns a handle with which any thread can reload the gateway or shut it down.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the running gateway has ended. Something else must call [`Handle::drain`] or [`Handle::stop`].
    ///
    /// The admin plane serves until the last request has ended, so that an operator can watch the drain.
    pub fn join(self) {
        for worker in self.workers {
            // An error means that the worker panicked. It has ended too.
            let _ = worker.join();
        }
        // No request settles any more.
        sharing::end(self.shared.as_deref());
        self.ledgers.end();
        // After the ledger: the last rows may exhaust a budget and raise an alert.
        self.alerting.end();
        self.affinity_store.end();
        self.handle.stop();
        let _ = self.control.join();
    }
}

fn runtime() -> Result<Runtime, StartError> {
    Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)
}

/// Runs `work` on a new thread with its own runtime.
fn spawn(
    name: String,
    runtime: Runtime,
    work: impl Future<Output = io::Result<()>> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let run = move || {
        if let Err(error) = runtime.block_on(work) {
            tracing::error!(%error, "a listener stopped: Tidegate accepts no more connections on the address of this \
                listener. Restart Tidegate");
        }
        // A DNS lookup cannot be interrupted. Waiting for it could delay the shutdown by many seconds.
        runtime.shutdown_background();
    };
    thread::Builder::new().name(name).spawn(run).map_err(StartError::Thread)
}
