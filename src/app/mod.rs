//! The composition root: the only place that knows every part. Builds the gateway from a configuration, runs it on
//! one thread a worker and one for control, ends it in order.

mod alerts;
mod bound;
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
mod log_line;
mod log_writer;
mod memory;
mod rejections;
mod reload;
mod sharing;
mod start_error;
pub mod telemetry;
mod world;

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
    alerts::Alerting, bound::BoundListeners, clients::ClientConnections, data_dir::DataDir, keys::StoredKeys,
    ledger::Ledgers, memory::ADMIN_CONNECTIONS, reload::Reloader,
};
use crate::{
    affinity::AffinityStoreThread,
    api::{self, Admin, Data, Health},
    config::{Config, Listen},
    domain::chance::Dice,
    limits::Shared,
    metering::Statements,
    metrics::Metrics,
    proxy::{DrainTasks, Proxy, SharedState, Tables, Tls, WorkerContext, polls},
    server::{self, Limits, Listener, Secure, Shutdown},
    store::{origins, sql::DatabaseLocation},
};

pub use grace::Grace;
pub use handle::Handle;
pub use memory::MemoryBounds;
pub use reload::ReloadSource;
pub use start_error::StartError;
pub use world::StartContext;

/// A gateway that runs.
#[derive(Debug)]
pub struct Running {
    /// Where clients reach it.
    pub listen: Listen,
    /// Where its operator does.
    pub admin_listen: Listen,
    /// Where `/metrics` is alone, if wanted.
    pub metrics_listen: Option<Listen>,
    /// The most memory that it may come to hold.
    pub memory: MemoryBounds,
    /// The key that was made because there was none, for a terminal.
    pub first_key: Option<SecretString>,
    handle: Handle,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    ledgers: Ledgers,
    shared: Option<Arc<Shared>>,
    keeping: AffinityStoreThread,
    /// Keys are looked at for as long as this is here.
    _keys_watched: mpsc::Sender<()>,
    alerting: Alerting,
    _data_dir: DataDir,
}

/// Starts a gateway. Everything is checked and bound before anything runs. With an `origin`, its configuration is read
/// again from there on a wish ([`Handle::reload`]) and when its files change.
///
/// # Errors
/// When a part of it cannot be had; nothing runs then.
pub fn start(of_file: Config, origin: Option<ReloadSource>, world: StartContext) -> Result<Running, StartError> {
    let data_dir = DataDir::open(&of_file.server.data_dir)?;
    let tls = Tls::new(&of_file)?;
    let metrics = Arc::new(Metrics::default());
    let (of_keys, of_ledger) = (Arc::clone(&metrics.keys), Arc::clone(&metrics.ledger));
    let mut keys =
        StoredKeys::open(DatabaseLocation::of(&of_file), &data_dir, of_keys, of_ledger).map_err(StartError::Thread)?;
    let made_key = first_key::make(of_file.keys.len(), &keys, world)?;
    keys.stored.keys.extend(made_key.as_ref().map(|made| made.key.clone()));
    let config = reload::with_stored(&of_file, &keys.stored.keys);
    let mut common = SharedState::new(&config, None, &metrics, tokio::time::Instant::now());
    let health = Arc::new(Health::new(&config, &metrics.keys));

    let name = ledger::origin(&data_dir, world.chance)?;
    let shared = sharing::start(&config, world, &name, &metrics, &mut common)?;

    // Sockets are made inside a runtime; the control thread takes it over.
    let control = runtime()?;
    let bound = BoundListeners::new(&control, &config.server)?;
    let mut ledgers = Ledgers::start(&config, &data_dir, name, &common.spending, world, &metrics)?;
    let statements = Statements::start(DatabaseLocation::of(&config)).map_err(StartError::Thread)?;
    let place = origins::OriginStoreLocation::of(&config);
    let keeping =
        AffinityStoreThread::start(place, &config.affinity, world.clock, world.chance, Arc::clone(&metrics.affinity))
            .map_err(StartError::Thread)?;
    let first_key = made_key.map_or(Ok(None), |made| first_key::keep(made, &mut keys, &data_dir, world))?;

    let (reloader, told) = mpsc::channel();
    let certificates = clients::certificates(&config);
    let acceptor = certificates.clone().map(server::acceptor).transpose()?;
    let parts = handle::HandleParts {
        health: Arc::clone(&health),
        certificates,
        reloader,
        bodies: metrics.bodies.clone(),
        origins: Arc::clone(&keeping.origins),
    };
    let (handle, limits, latest_config) = Handle::new(&config, parts);
    let connections = files::connections(config.server.max_connections);
    let slots = Arc::new(Semaphore::new(connections));
    let readers = DrainTasks::new(&slots, connections);
    let secure = acceptor.map(|acceptor| Secure { acceptor, slots: Arc::clone(&slots) });
    let mut data = Vec::with_capacity(bound.data.len());
    let mut workers = Vec::with_capacity(bound.data.len());
    for (index, listener) in bound.data.into_iter().enumerate() {
        let dice = Arc::new(Dice::new(world.chance)?);
        let tables = Tables::new(&config, &tls, &metrics, &common, &dice, None)?;
        if index == 0 {
            tables.count_budgets(world.clock);
            common.spending.wait_until_read(&common.spending.all(), ledger::SPEND_AT_START);
        }
        let ledger = ledgers.of_a_worker();
        let readers = Arc::new(readers.apart());
        let beside = WorkerContext {
            ledger: Arc::clone(&ledger),
            readers: Arc::clone(&readers),
            origins: Arc::clone(&keeping.origins),
            statements: statements.clone(),
        };
        let proxy = Arc::new(Proxy::new(tables, beside, world.clock, world.chance, dice)?);
        let polling = ledgers.polling().map(|polling| polls::keep_polling(Arc::clone(&proxy), polling));
        let state = Arc::new(Data { proxy, health: Arc::clone(&health) });
        data.push(Arc::clone(&state));
        let serving = serving_data(state, &config, &handle, &metrics, secure.clone());
        let serving = server::run(listener, serving, limits.clone(), Arc::clone(&slots));
        let serving = ledger::beside(ledger, polling, to_the_end(serving, readers, handle.data.clone()));
        workers.push(spawn(format!("worker-{index}"), runtime()?, serving)?);
    }
    let shown = data.first().map(Arc::clone).ok_or(StartError::NoWorker)?;
    let alerting = alert(&shown, &metrics, &common, latest_config, &data_dir, world)?;
    let admin = Admin { data: shown, metrics: Arc::clone(&metrics), health };
    let serving = serve_admin(bound.admin, bound.metrics, admin, handle.admin.clone(), limits);
    let control = spawn("control".into(), control, serving)?;
    let memory = MemoryBounds::new(&config, connections);
    let (keys_watched, stop) = mpsc::channel();
    let stored = keys.stored.keys.clone();
    keys.watch(handle.reloader.clone(), stop).map_err(StartError::Thread)?;
    let reloader =
        Reloader { origin, of_file, stored, running: config, common, workers: data, metrics, handle: handle.clone() };
    reloader.start(told).map_err(StartError::Thread)?;
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
        keeping,
        _keys_watched: keys_watched,
        alerting,
        _data_dir: data_dir,
    })
}

/// What the connections of a worker share.
fn serving_data(
    state: Arc<Data>,
    config: &Config,
    handle: &Handle,
    metrics: &Arc<Metrics>,
    tls: Option<Secure>,
) -> server::Shared<Router> {
    server::Shared {
        service: api::data(state),
        limits: clients::limits(&config.timeouts),
        shutdown: handle.data.clone(),
        observer: Arc::new(ClientConnections(Arc::clone(metrics))),
        tls,
        heartbeat: Arc::default(),
    }
}

/// Starts to tell the operator of what happens.
fn alert(
    data: &Arc<Data>,
    metrics: &Arc<Metrics>,
    common: &SharedState,
    config: watch::Receiver<Arc<Config>>,
    data_dir: &DataDir,
    world: StartContext,
) -> Result<Alerting, StartError> {
    let (data, metrics, spending) = (Arc::clone(data), Arc::clone(metrics), Arc::clone(&common.spending));
    let sources = alerts::Sources { data, metrics, spending, config, clock: world.clock };
    alerts::start(sources, data_dir).map_err(StartError::Thread)
}

/// Serves, and reads on what clients left behind.
async fn to_the_end(
    serving: impl Future<Output = io::Result<()>>,
    readers: Arc<DrainTasks>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let served = serving.await;
    readers.end(shutdown.stopped()).await;
    served
}

/// Serves the admin plane, and `/metrics` alone where that is wanted.
async fn serve_admin(
    full: Listener,
    bare: Option<Listener>,
    state: Admin,
    shutdown: Shutdown,
    limits: watch::Receiver<Limits>,
) -> io::Result<()> {
    let serve = |listener: Listener, router| {
        let serving = server::Shared {
            service: router,
            limits: *limits.borrow(),
            shutdown: shutdown.clone(),
            // Its connections are not clients' and are not counted among them.
            observer: Arc::<ClientConnections>::default(),
            tls: None,
            heartbeat: Arc::default(),
        };
        server::run(listener, serving, limits.clone(), Arc::new(Semaphore::new(ADMIN_CONNECTIONS)))
    };
    let full = serve(full, api::admin(state.clone()));
    match bare {
        Some(bare) => tokio::try_join!(full, serve(bare, api::metrics_only(state))).map(|_| ()),
        None => full.await,
    }
}

impl Running {
    /// To end it from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the gateway has ended, which somebody has to ask its handle for.
    ///
    /// The admin plane serves on until the last request is out, so that a drain can be watched.
    pub fn join(self) {
        for worker in self.workers {
            // A worker that panicked has ended too.
            let _ = worker.join();
        }
        // Nobody settles any more.
        sharing::end(self.shared.as_deref());
        self.ledgers.end();
        // The ledger tells which budgets are spent.
        self.alerting.end();
        self.keeping.end();
        self.handle.stop();
        let _ = self.control.join();
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
            tracing::error!(%error, "a listener stopped: Tidegate accepts no more connections on it. Restart Tidegate");
        }
        // A name that is being resolved cannot be interrupted: waiting for it would hold the end up for many seconds.
        runtime.shutdown_background();
    };
    thread::Builder::new().name(name).spawn(run).map_err(StartError::Thread)
}
