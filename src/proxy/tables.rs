//! What the requests of one worker read: the tables of one configuration, and the state that all tables share.

use std::{collections::HashMap, sync::Arc};

use jiff::tz::TimeZone;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::{arrival::RequestArrival, quota::BudgetTerms, settle::SettleOnDrop};
use crate::{
    auth::Keys,
    billing::Prices,
    budgets::Spending,
    concurrent::{
        byte_budget::{ByteHolder, ByteShare},
        random_source::RandomSource,
    },
    config::{self, Config, Retries, Timeouts, UnknownIds},
    domain::{
        clock::{Clock, UnixMillis},
        money::Exchange,
    },
    limits::{Limits, LimitsInRedis, Meters},
    metering::Settlement,
    metrics::{Metrics, WorkerMetrics},
    routing::Routes,
    upstream::{
        Pool, Pools, Upstream, UpstreamConfigError,
        send::{self, Sender, TlsError},
    },
};

/// Everything that the requests of one worker read: keys, routes, upstreams, limits and prices of one configuration. Never changes; a
/// reload makes new tables. Indices of upstreams are valid only inside the same tables.
#[derive(Debug)]
pub struct Tables {
    /// The client keys.
    pub keys: Keys,
    pub(super) limits: Limits,
    pub(super) prices: Prices,
    /// The routes of the models.
    pub routes: Routes,
    /// The upstreams. The indices in `routes` and `keys` point into this list.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The sender of each upstream, by the same indices.
    pub(super) senders: Vec<Sender>,
    /// The counters of this worker, by the same indices.
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) retries: Retries,
    pub(super) timeouts: Timeouts,
    pub(super) max_body_bytes: u64,
    pub(super) client_gone_drain: u64,
    pub(super) budget_terms: BudgetTerms,
    pub(super) unknown_ids: Option<UnknownIds>,
    /// The time zone in which a budget's day begins.
    pub(super) time_zone: TimeZone,
    pub(super) exchange: Exchange,
    /// Whether the log shows the IP address of a client whose request is rejected.
    pub(super) logs_client_ip: bool,
    /// Memory for request bodies, by the index of the key in the configuration.
    pub(super) body_memory: Vec<ByteShare>,
}

/// The state that all workers share and that survives a reload: health of upstreams, limits, budgets, and memory for bodies.
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
    /// Makes the state that all workers share for this configuration. Upstreams, keys and limits that keep their names keep their state
    /// from `previous`.
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

    /// Lets this process share its limits and budgets with the other replicas from now on.
    pub fn share_limits(&mut self, shared: Arc<LimitsInRedis>) {
        self.meters.share(shared);
    }
}

/// Why no tables can be built from a configuration that passed its checks: an address, a credential or a certificate is unusable.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// An address or a credential cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamConfigError),
    /// A certificate cannot be used.
    #[error("the `ca_file` of the upstream {0} cannot be used: {1}. Set `ca_file` to a PEM file of certificates")]
    Tls(Arc<str>, TlsError),
}

/// The TLS settings for the connections to each upstream of a configuration. All workers share them, because reading the system's root
/// certificates takes milliseconds.
#[derive(Debug)]
pub struct Tls(Vec<Arc<ClientConfig>>);

impl Tls {
    /// Reads the root certificates of the system and of each upstream, for the TLS connections to upstreams.
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
    /// Builds tables without serving requests, for `tidegate check` and `tidegate explain`. Every upstream is in service.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn for_commands(config: &Config) -> Result<Self, TablesError> {
        let metrics = Metrics::default();
        let common = SharedState::new(config, None, &metrics, Instant::now());
        Self::new(config, &Tls::new(config)?, &metrics, &common, &Arc::new(RandomSource::seeded(0)), None)
    }

    /// Builds one worker's tables (keys, routes, upstreams, limits) from a configuration. With tables shared by all workers, writing the
    /// reference counts would cost a request more than its lookups. `previous` = the tables that this worker uses now. An upstream that
    /// is reached in the same way keeps its connections.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn new(
        config: &Config,
        tls: &Tls,
        metrics: &Metrics,
        common: &SharedState,
        random: &Arc<RandomSource>,
        previous: Option<&Self>,
    ) -> Result<Self, TablesError> {
        let config = config.clone_without_shared_text();
        let upstream = |(upstream, pool): (&config::Upstream, &Arc<Pool>)| {
            Upstream::new(upstream.clone(), config.health, Arc::clone(pool), Arc::clone(random)).map(Arc::new)
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

    /// Creates the counters of all budgets, so that the spend is known before the first request arrives.
    pub fn count_budgets(&self, clock: Clock) {
        self.limits.count_budgets(UnixMillis(u64::try_from(clock.since_epoch().as_millis()).unwrap_or(u64::MAX)));
    }

    /// Opens the record of a request. The guard settles the request.
    pub(super) fn open(&self, arrival: &RequestArrival) -> SettleOnDrop {
        Settlement::open(Arc::clone(&self.metrics), arrival.id, arrival.disconnect.clone()).into()
    }
}
