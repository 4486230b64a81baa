//! The gateway itself: joins keys, routes, upstreams and metering into the path of one request ([`forward`]).

mod attempt;
pub mod error;
mod failover;
pub mod forward;
mod receive;
mod respond;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustls::ClientConfig;
use tokio::time::Instant;

use crate::{
    auth::Keys,
    config::{self, Config, Retries, Timeouts},
    domain::{
        chance::{Chance, Dice, NoChance},
        clock::Clock,
        departure::Departure,
        id::{RequestId, RequestIds},
    },
    metering::Settlement,
    metrics::{Metrics, WorkerMetrics},
    routing::Routes,
    upstream::{
        Pool, Pools, Unusable, Upstream,
        send::{self, Sender, TlsError},
    },
};

pub use respond::Answer;

/// Everything that a request reads: one immutable snapshot.
#[derive(Debug)]
pub struct Tables {
    /// Who may call.
    pub keys: Keys,
    /// Where models lead.
    pub routes: Routes,
    /// The upstreams, by the indices that `routes` and `keys` speak of.
    pub upstreams: Vec<Arc<Upstream>>,
    retries: Retries,
    timeouts: Timeouts,
    max_body_bytes: u64,
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
        let pools = Pools::new(config, None, &Metrics::default(), Instant::now());
        Self::new(config, &pools, &Arc::new(Dice::seeded(0)))
    }

    /// Builds the snapshot, as one worker's own: reference counts that all of them write to would cost each request
    /// more than the lookups.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn new(config: &Config, pools: &Pools, dice: &Arc<Dice>) -> Result<Self, TablesError> {
        let config = config.apart();
        let upstream = |(upstream, pool): (&config::Upstream, &Arc<Pool>)| {
            Upstream::new(upstream.clone(), config.health, Arc::clone(pool), Arc::clone(dice)).map(Arc::new)
        };
        let upstreams = config.upstreams.iter().zip(pools.iter()).map(upstream).collect::<Result<_, _>>()?;
        Ok(Self {
            keys: Keys::new(&config.keys),
            routes: Routes::new(&config),
            upstreams,
            retries: config.retries,
            timeouts: config.timeouts,
            max_body_bytes: config.server.max_body_bytes,
        })
    }
}

/// The gateway as one worker sees it: the shared tables, and clients of its own for every upstream.
#[derive(Debug)]
pub struct Proxy {
    tables: Arc<Tables>,
    senders: Vec<Sender>,
    metrics: Arc<WorkerMetrics>,
    ids: RequestIds,
    clock: Clock,
    dice: Arc<Dice>,
    /// Goes up by one a request.
    turn: AtomicUsize,
}

/// What is known of a request before its head is looked at.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Our id for it.
    pub id: RequestId,
    /// Tells why its connection ended, if it does.
    pub departure: Departure,
}

impl Proxy {
    /// The gateway for one worker. The connections it makes belong to the runtime it is used on.
    ///
    /// # Errors
    /// Without randomness, which the ids of requests need.
    pub fn new(
        tables: Tables,
        tls: &Tls,
        metrics: &Metrics,
        clock: Clock,
        chance: Chance,
        dice: Arc<Dice>,
    ) -> Result<Self, NoChance> {
        let senders = tables
            .upstreams
            .iter()
            .zip(&tls.0)
            .map(|(upstream, tls)| Sender::new(&upstream.config, &tables.timeouts, tls))
            .collect();
        let metrics = Arc::new(metrics.worker(tables.upstreams.iter().map(|upstream| &*upstream.config.name)));
        let ids = RequestIds::new(clock, chance)?;
        Ok(Self { tables: Arc::new(tables), senders, metrics, ids, clock, dice, turn: AtomicUsize::new(0) })
    }

    /// The snapshot that a request begun now keeps to its end.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Greets a request: gives it its id.
    pub fn arrival(&self, departure: Departure) -> Arrival {
        Arrival { id: self.ids.next(), departure }
    }

    fn sender(&self, upstream: usize) -> Option<&Sender> {
        self.senders.get(upstream)
    }

    fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn dice(&self) -> &Dice {
        &self.dice
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens the record of a request.
    fn open(&self, arrival: &Arrival) -> Settlement {
        Settlement::open(Arc::clone(&self.metrics), arrival.id, arrival.departure.clone())
    }
}
