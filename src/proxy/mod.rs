//! The gateway itself. Joins keys, routes, upstreams and metering into the path of one request ([`forward`]).

mod attempt;
mod call;
mod catalogue;
mod closing;
pub mod cost;
pub mod error;
pub mod explain;
mod failover;
pub mod forward;
mod home;
mod intake;
mod learning;
mod observer;
mod place;
pub mod polls;
mod quota;
mod read_on;
mod receive;
mod refers;
mod request_head;
mod respond;
mod silence;
mod source;
pub mod statement;
mod status;
mod turn;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicUsize},
};

use jiff::tz::TimeZone;
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::{
    affinity::AffinityMemory,
    auth::{Keys, RequestSource},
    billing::Prices,
    budgets::Spending,
    config::{self, Config, OnClientGone, Retries, Timeouts, UnknownIds},
    domain::{
        budget::{ByteHolder, ByteShare},
        chance::{Chance, Dice, NoChance},
        clock::{Clock, UnixMillis},
        id::{RequestId, RequestIds},
        money::Exchange,
    },
    limits::{Limits, Meters, Shared},
    metering::{DisconnectRecord, Ledger, Settlement, Statements},
    metrics::{Metrics, WorkerMetrics},
    protocol::body::BLOCK,
    routing::Routes,
    upstream::{
        Pool, Pools, Unusable, Upstream,
        send::{self, Sender, TlsError},
    },
};

use catalogue::Catalogue;
use forward::Admitted;
use learning::WorkerAffinity;
use quota::BudgetTerms;
use read_on::DrainContext;
pub use read_on::DrainTasks;
pub use respond::ResponseBody;

/// The most memory of one request, beside its body and its connections. A request keeps the best failed answer, the answer that
/// it reads now, and the last block of its body.
pub const PER_REQUEST: usize = 2 * attempt::ERROR_BODY_LIMIT + BLOCK;

/// The most upstream connections of one request. A failed answer that was not read to its end keeps its connection during the
/// next attempt.
pub const CONNECTIONS_PER_REQUEST: usize = 2;

/// Everything that a request reads: one immutable set of tables, of one worker. Indices of upstreams are valid only inside the
/// same tables.
#[derive(Debug)]
pub struct Tables {
    /// The client keys.
    pub keys: Keys,
    limits: Limits,
    prices: Prices,
    /// The routes of the models.
    pub routes: Routes,
    /// The upstreams. The indices in `routes` and `keys` point into this list.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The sender of each upstream, by the same indices.
    senders: Vec<Sender>,
    /// The counters of this worker, by the same indices.
    metrics: Arc<WorkerMetrics>,
    retries: Retries,
    timeouts: Timeouts,
    max_body_bytes: u64,
    client_gone_drain: u64,
    budget_terms: BudgetTerms,
    unknown_ids: Option<UnknownIds>,
    /// The time zone in which a budget's day begins.
    time_zone: TimeZone,
    exchange: Exchange,
    /// Whether the log shows the IP address of a client whose request is rejected.
    logs_client_ip: bool,
    /// Memory for request bodies, by the index of the key in the configuration.
    body_memory: Vec<ByteShare>,
}

/// State that all workers share and that survives a reload.
#[derive(Debug)]
pub struct SharedState {
    pools: Pools,
    meters: Meters,
    /// What requests spent of each budget.
    pub spending: Arc<Spending>,
    /// The memory that the bodies of each key use, in the order of the configuration.
    bodies: Vec<(Arc<str>, ByteHolder)>,
}

impl SharedState {
    /// Creates the shared state of a configuration. Whatever keeps its name is taken over from `previous`.
    pub fn new(config: &Config, previous: Option<&Self>, metrics: &Metrics, now: Instant) -> Self {
        let spending = previous.map(|common| Arc::clone(&common.spending)).unwrap_or_default();
        let known = previous.map_or_else(HashMap::new, |common| common.bodies.iter().cloned().collect());
        let bodies = |key: &config::Key| (Arc::clone(&key.name), known.get(&key.name).cloned().unwrap_or_default());
        Self {
            bodies: config.keys.iter().map(bodies).collect(),
            pools: Pools::new(config, previous.map(|common| &common.pools), metrics, now),
            meters: Meters::new(config, previous.map(|common| &common.meters), &spending, now),
            spending,
        }
    }

    /// Returns each key's share of the memory for bodies, for one worker. A single key shares the memory with no other key.
    fn body_memory(&self, metrics: &Metrics) -> Vec<ByteShare> {
        let several = self.bodies.len() > 1;
        self.bodies.iter().map(|(_, holder)| metrics.bodies.share(several.then_some(holder))).collect()
    }

    /// Makes replicas share limits from now on.
    pub fn share_limits(&mut self, shared: Arc<Shared>) {
        self.meters.share(shared);
    }
}

/// Why a configuration that passed its checks still cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// An address or a credential cannot be used.
    #[error(transparent)]
    Upstream(#[from] Unusable),
    /// A certificate cannot be used.
    #[error("upstream {0}: ca_file cannot be used: {1}")]
    Tls(Arc<str>, TlsError),
}

/// TLS settings for each upstream of a configuration. All workers share one set, because reading the system's root certificates
/// takes milliseconds.
#[derive(Debug)]
pub struct Tls(Vec<Arc<ClientConfig>>);

impl Tls {
    /// Reads the root certificates.
    ///
    /// # Errors
    /// When an upstream's own certificate cannot be used.
    pub fn new(config: &Config) -> Result<Self, TablesError> {
        let mut common: Option<Arc<ClientConfig>> = None;
        let of = |upstream: &config::Upstream| {
            let refused = |error| TablesError::Tls(Arc::clone(&upstream.name), error);
            Ok(match (&upstream.ca_pem, &common) {
                (Some(pem), _) => Arc::new(send::tls(Some(pem)).map_err(refused)?),
                (None, Some(common)) => Arc::clone(common),
                (None, None) => Arc::clone(common.insert(Arc::new(send::tls(None).map_err(refused)?))),
            })
        };
        config.upstreams.iter().map(of).collect::<Result<_, _>>().map(Self)
    }
}

impl Tables {
    /// Builds tables for a configuration that serves no request. Every upstream is in service.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn at_rest(config: &Config) -> Result<Self, TablesError> {
        let metrics = Metrics::default();
        let common = SharedState::new(config, None, &metrics, Instant::now());
        Self::new(config, &Tls::new(config)?, &metrics, &common, &Arc::new(Dice::seeded(0)), None)
    }

    /// Builds the tables of one worker. With tables shared by all workers, writing the reference counts would cost a request
    /// more than its lookups. `previous` = the tables that this worker uses now. An upstream that is reached in the same way
    /// keeps its connections.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn new(
        config: &Config,
        tls: &Tls,
        metrics: &Metrics,
        common: &SharedState,
        dice: &Arc<Dice>,
        previous: Option<&Self>,
    ) -> Result<Self, TablesError> {
        let config = config.apart();
        let upstream = |(upstream, pool): (&config::Upstream, &Arc<Pool>)| {
            Upstream::new(upstream.clone(), config.health, Arc::clone(pool), Arc::clone(dice)).map(Arc::new)
        };
        let upstreams =
            config.upstreams.iter().zip(common.pools.iter()).map(upstream).collect::<Result<Vec<_>, _>>()?;
        let senders = config.upstreams.iter().zip(&tls.0).map(|(upstream, tls)| {
            let kept = previous.and_then(|previous| previous.sender_like(upstream, &config.timeouts));
            kept.unwrap_or_else(|| Sender::new(upstream, &config.timeouts, tls))
        });
        let budget_terms = BudgetTerms::new(&config);
        Ok(Self {
            keys: Keys::new(&config, &metrics.keys),
            limits: Limits::new(&config, &common.meters),
            prices: Prices::new(&config),
            routes: Routes::new(&config),
            senders: senders.collect(),
            metrics: Arc::new(metrics.worker(upstreams.iter().map(|upstream| &*upstream.config.name))),
            upstreams,
            retries: config.retries,
            timeouts: config.timeouts,
            max_body_bytes: config.server.max_body_bytes,
            client_gone_drain: config.server.client_gone_drain,
            budget_terms,
            unknown_ids: config.affinity.unknown_ids,
            time_zone: config.money.time_zone.clone(),
            exchange: Exchange { cny_per_usd: config.money.cny_per_usd },
            logs_client_ip: config.log.client_ip,
            body_memory: common.body_memory(metrics),
        })
    }

    /// Returns the sender of the upstream with this name, if no setting of that sender changed.
    fn sender_like(&self, upstream: &config::Upstream, timeouts: &Timeouts) -> Option<Sender> {
        let index = self.upstreams.iter().position(|known| known.config.name == upstream.name)?;
        let known = &self.upstreams.get(index)?.config;
        let same = known.base_url == upstream.base_url
            && known.proxy == upstream.proxy
            && known.proxy_login == upstream.proxy_login
            && known.ca_pem == upstream.ca_pem
            && known.max_idle_connections == upstream.max_idle_connections
            && self.timeouts.upstream_connect == timeouts.upstream_connect
            && self.timeouts.upstream_pool_idle == timeouts.upstream_pool_idle;
        if same { self.senders.get(index).cloned() } else { None }
    }

    /// Makes the counters of all budgets, so that the spend is known before the first request arrives.
    pub fn count_budgets(&self, clock: Clock) {
        self.limits.count_budgets(UnixMillis(u64::try_from(clock.since_epoch().as_millis()).unwrap_or(u64::MAX)));
    }

    /// Opens the settlement of a request.
    fn open(&self, arrival: &RequestArrival) -> Settlement {
        Settlement::open(Arc::clone(&self.metrics), arrival.id, arrival.departure.clone())
    }
}

/// The gateway as one worker sees it. A reload replaces the tables.
#[derive(Debug)]
pub struct Proxy {
    /// Each worker has a lock of its own. Only a reload writes to the lock, so no request ever waits for it.
    tables: RwLock<Arc<Tables>>,
    ids: RequestIds,
    clock: Clock,
    dice: Arc<Dice>,
    /// Counts requests: plus one for each request.
    turn: AtomicUsize,
    /// The ledger, which records a request before the request is sent upstream.
    ledger: Arc<Ledger>,
    /// The tasks that drain answers whose clients left.
    readers: Arc<DrainTasks>,
    /// The affinity memory, which knows the account of each reference.
    pub origins: Arc<AffinityMemory>,
    /// The same memory, as answers write to it.
    learning: Arc<WorkerAffinity>,
    /// The models that upstreams list.
    catalogue: Catalogue,
    /// Reads the usage of each key.
    statements: Statements,
}

/// The services that a worker uses.
#[derive(Debug)]
pub struct WorkerContext {
    /// The ledger, which records a request before the request is sent upstream.
    pub ledger: Arc<Ledger>,
    /// The tasks that drain answers whose clients left.
    pub readers: Arc<DrainTasks>,
    /// The affinity memory.
    pub origins: Arc<AffinityMemory>,
    /// Reads the usage of each key.
    pub statements: Statements,
}

/// What Tidegate knows of a request before it reads the head.
#[derive(Clone, Debug)]
pub struct RequestArrival {
    /// Tidegate's id of the request.
    pub id: RequestId,
    /// Says why the connection of the request ended, if the connection ended.
    pub departure: DisconnectRecord,
}

impl RequestArrival {
    fn visit(&self) -> RequestSource {
        RequestSource { peer: self.departure.peer(), now: self.id.millis() }
    }
}

impl Proxy {
    /// Creates the gateway for one worker. Its connections belong to the runtime that calls this function.
    ///
    /// # Errors
    /// When the system gives no randomness, which request ids need.
    pub fn new(
        tables: Tables,
        beside: WorkerContext,
        clock: Clock,
        chance: Chance,
        dice: Arc<Dice>,
    ) -> Result<Self, NoChance> {
        let (tables, ids) = (RwLock::new(Arc::new(tables)), RequestIds::new(clock, chance)?);
        let WorkerContext { ledger, readers, origins, statements } = beside;
        let turn = AtomicUsize::new(0);
        let learning = Arc::new(WorkerAffinity::new(Arc::clone(&origins), clock));
        let catalogue = Catalogue::default();
        Ok(Self { tables, ids, clock, dice, turn, ledger, readers, origins, learning, catalogue, statements })
    }

    /// Builds the tables of another configuration for this worker. [`swap`](Self::swap) puts them to use.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn build(
        &self,
        config: &Config,
        tls: &Tls,
        metrics: &Metrics,
        common: &SharedState,
    ) -> Result<Tables, TablesError> {
        Tables::new(config, tls, metrics, common, &self.dice, Some(&self.tables()))
    }

    /// Returns the current tables. A request keeps the tables that it started with.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the tables for new requests. A request in progress keeps its tables.
    pub fn swap(&self, tables: Tables) {
        let before = {
            let mut now = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::new(tables))
        };
        // The old tables are dropped here, where no request waits for the lock.
        drop(before);
    }

    /// Returns the clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the milliseconds since 1970-01-01 UTC.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the random numbers of this worker.
    pub fn dice(&self) -> &Dice {
        &self.dice
    }

    /// Returns how the answer to an admitted request is drained after its client left. `None` = the answer is cancelled.
    fn read_on(&self, tables: &Tables, admitted: &Admitted, arrival: &RequestArrival) -> Option<DrainContext> {
        let drains = admitted.caller.on_client_gone == OnClientGone::Drain;
        (drains || admitted.is_read_on_by_default(tables)).then(|| DrainContext {
            readers: Arc::clone(&self.readers),
            departure: arrival.departure.clone(),
            within: tables.timeouts.client_gone_drain,
            bytes: tables.client_gone_drain,
            streams: drains,
        })
    }

    /// Gives a new request its id.
    pub fn arrival(&self, departure: DisconnectRecord) -> RequestArrival {
        RequestArrival { id: self.ids.next(), departure }
    }
}
