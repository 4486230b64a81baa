//! The gateway itself: joins keys, routes, upstreams and metering into the path of one request ([`forward`]).

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
    auth::{Keys, RequestFrom},
    billing::Prices,
    budgets::Spending,
    config::{self, Config, OnClientGone, Retries, Timeouts, UnknownIds},
    domain::{
        budget::{ByteHolder, ByteShare},
        chance::{Chance, Dice, NoChance},
        clock::{Clock, UnixMillis},
        departure::DisconnectRecord,
        id::{RequestId, RequestIds},
        money::Exchange,
    },
    limits::{Limits, Meters, Shared},
    metering::{Ledger, Settlement, Statements},
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

/// What one request holds at most beside its body and its connections: the best of the answers that failed, the one that
/// is being looked at, and the end of a block of its body that is not full.
pub const PER_REQUEST: usize = 2 * attempt::ERROR_BODY_LIMIT + BLOCK;

/// Connections to upstreams that one request holds at most: a failed answer that was not read to its end keeps its own
/// while the next candidate is asked.
pub const CONNECTIONS_PER_REQUEST: usize = 2;

/// Everything that a request reads: one immutable snapshot, of one worker. Upstreams are known by their indices, which
/// mean something only inside the snapshot that they are of.
#[derive(Debug)]
pub struct Tables {
    /// Who may call.
    pub keys: Keys,
    limits: Limits,
    prices: Prices,
    /// Where models lead.
    pub routes: Routes,
    /// The upstreams, by the indices that `routes` and `keys` speak of.
    pub upstreams: Vec<Arc<Upstream>>,
    /// How each of them is reached, by the same indices.
    senders: Vec<Sender>,
    /// What is counted, by the same indices.
    metrics: Arc<WorkerMetrics>,
    retries: Retries,
    timeouts: Timeouts,
    max_body_bytes: u64,
    client_gone_drain: u64,
    budget_terms: BudgetTerms,
    unknown_ids: Option<UnknownIds>,
    /// Where days begin.
    time_zone: TimeZone,
    exchange: Exchange,
    /// Whether the log names the address of clients that are refused.
    logs_client_ip: bool,
    /// Memory for the bodies of requests, by the place of their key in the configuration.
    body_memory: Vec<ByteShare>,
}

/// What all workers share, and what lives through reloads.
#[derive(Debug)]
pub struct SharedState {
    pools: Pools,
    meters: Meters,
    /// What was spent of budgets.
    pub spending: Arc<Spending>,
    /// What the bodies of each key hold, in the order of the configuration.
    bodies: Vec<(Arc<str>, ByteHolder)>,
}

impl SharedState {
    /// For a configuration. What keeps its name in it goes on as it is in `previous`.
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

    /// The right of each key to memory for bodies, for one worker. A single key has nobody to share with.
    fn body_memory(&self, metrics: &Metrics) -> Vec<ByteShare> {
        let several = self.bodies.len() > 1;
        self.bodies.iter().map(|(_, holder)| metrics.bodies.share(several.then_some(holder))).collect()
    }

    /// From now on replicas share limits.
    pub fn share_limits(&mut self, shared: Arc<Shared>) {
        self.meters.share(shared);
    }
}

/// A configuration that passed its checks and still cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// An address or a credential.
    #[error(transparent)]
    Upstream(#[from] Unusable),
    /// A certificate.
    #[error("upstream {0}: ca_file cannot be used: {1}")]
    Tls(Arc<str>, TlsError),
}

/// TLS settings for each upstream of a configuration. Made once for all workers: reading the system's roots takes
/// milliseconds.
#[derive(Debug)]
pub struct Tls(Vec<Arc<ClientConfig>>);

impl Tls {
    /// Reads the roots.
    ///
    /// # Errors
    /// When a certificate of an upstream's own cannot be used.
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
    /// The snapshot of a configuration that nothing runs with: everything is in service.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn at_rest(config: &Config) -> Result<Self, TablesError> {
        let metrics = Metrics::default();
        let common = SharedState::new(config, None, &metrics, Instant::now());
        Self::new(config, &Tls::new(config)?, &metrics, &common, &Arc::new(Dice::seeded(0)), None)
    }

    /// Builds the snapshot, as one worker's own: reference counts that all of them write to would cost each request
    /// more than the lookups. Connections to upstreams that are reached as in `previous`, that worker's snapshot until
    /// now, are carried over.
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

    /// The sender of the upstream of this name, if nothing changed that it is made of.
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

    /// Makes the counters of all budgets, so that it is known what was spent before the first request asks.
    pub fn count_budgets(&self, clock: Clock) {
        self.limits.count_budgets(UnixMillis(u64::try_from(clock.since_epoch().as_millis()).unwrap_or(u64::MAX)));
    }

    /// Opens the record of a request.
    fn open(&self, arrival: &RequestArrival) -> Settlement {
        Settlement::open(Arc::clone(&self.metrics), arrival.id, arrival.departure.clone())
    }
}

/// The gateway as one worker sees it. It reads the tables that hold now; a reload puts others in their place.
#[derive(Debug)]
pub struct Proxy {
    /// Each worker has a lock of its own, which is written to at a reload only: nobody ever waits for it.
    tables: RwLock<Arc<Tables>>,
    ids: RequestIds,
    clock: Clock,
    dice: Arc<Dice>,
    /// Goes up by one a request.
    turn: AtomicUsize,
    /// Where requests are put down that go up.
    ledger: Arc<Ledger>,
    /// Where answers are read on whose clients left.
    readers: Arc<DrainTasks>,
    /// Where state came from that requests name.
    pub origins: Arc<AffinityMemory>,
    /// The same, as answers write to it.
    learning: Arc<WorkerAffinity>,
    /// What upstreams list.
    catalogue: Catalogue,
    /// What keys used.
    statements: Statements,
}

/// What works beside a worker.
#[derive(Debug)]
pub struct WorkerContext {
    /// Where requests are put down that go up.
    pub ledger: Arc<Ledger>,
    /// Where answers are read on whose clients left.
    pub readers: Arc<DrainTasks>,
    /// Where state came from.
    pub origins: Arc<AffinityMemory>,
    /// What keys used.
    pub statements: Statements,
}

/// What is known of a request before its head is looked at.
#[derive(Clone, Debug)]
pub struct RequestArrival {
    /// Our id for it.
    pub id: RequestId,
    /// Tells why its connection ended, if it does.
    pub departure: DisconnectRecord,
}

impl RequestArrival {
    fn visit(&self) -> RequestFrom {
        RequestFrom { peer: self.departure.peer(), now: self.id.millis() }
    }
}

impl Proxy {
    /// The gateway for one worker. The connections it makes belong to the runtime it is used on.
    ///
    /// # Errors
    /// Without randomness, which the ids of requests need.
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

    /// The tables of another configuration for this worker, to be [swapped](Self::swap) in.
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

    /// The snapshot that a request begun now keeps to its end.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests begun from now on read these tables; those under way keep the ones that they have.
    pub fn swap(&self, tables: Tables) {
        let before = {
            let mut now = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::new(tables))
        };
        // Taken down where no request waits for the lock.
        drop(before);
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    /// What this worker draws with.
    pub fn dice(&self) -> &Dice {
        &self.dice
    }

    /// How the answer to an admitted request is read on should its client leave; none where it is cancelled.
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

    /// Greets a request: gives it its id.
    pub fn arrival(&self, departure: DisconnectRecord) -> RequestArrival {
        RequestArrival { id: self.ids.next(), departure }
    }
}
