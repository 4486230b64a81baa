//! The gateway itself: joins keys, routes, upstreams and metering into the path of one request ([`forward`]).

mod attempt;
pub mod error;
pub mod forward;
mod receive;
mod respond;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    auth::Keys,
    config::{self, Config, Timeouts},
    domain::{
        budget::Budget,
        chance::{Chance, NoChance},
        clock::Clock,
        departure::Departure,
        id::{RequestId, RequestIds},
    },
    metering::Settlement,
    metrics::{Metrics, WorkerMetrics},
    protocol::body::BLOCK,
    routing::Routes,
    upstream::{
        Unusable, Upstream,
        send::{self, Sender, TlsError},
    },
};

pub use respond::Answer;

/// What one request holds at most beside its body and its connections: an error answer that is looked at before the
/// client may have it, and the end of a block of its body that is not full.
pub const PER_REQUEST: usize = attempt::ERROR_BODY_LIMIT + BLOCK;

/// Everything that a request reads: one immutable snapshot.
#[derive(Debug)]
pub struct Tables {
    /// Who may call.
    pub keys: Keys,
    /// Where models lead.
    pub routes: Routes,
    /// The upstreams, by the indices that `routes` and `keys` speak of.
    pub upstreams: Vec<Upstream>,
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
    /// Builds the snapshot, as one worker's own: reference counts that all of them write to would cost each request
    /// more than the lookups.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn new(config: &Config) -> Result<Self, TablesError> {
        let config = config.apart();
        let upstreams = config.upstreams.iter().cloned().map(Upstream::new).collect::<Result<_, _>>()?;
        Ok(Self {
            keys: Keys::new(&config.keys),
            routes: Routes::new(&config),
            upstreams,
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
    /// Memory for the bodies of requests, shared with the other workers.
    bodies: Budget,
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
        bodies: &Budget,
        clock: Clock,
        chance: Chance,
    ) -> Result<Self, NoChance> {
        let senders = tables
            .upstreams
            .iter()
            .zip(&tls.0)
            .map(|(upstream, tls)| Sender::new(&upstream.config, &tables.timeouts, tls))
            .collect();
        let metrics = Arc::new(metrics.worker(tables.upstreams.iter().map(|upstream| &*upstream.config.name)));
        Ok(Self {
            tables: Arc::new(tables),
            senders,
            metrics,
            ids: RequestIds::new(clock, chance)?,
            bodies: bodies.apart(),
        })
    }

    /// The snapshot that a request begun now keeps to its end.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Greets a request: gives it its id.
    pub fn arrival(&self, departure: Departure) -> Arrival {
        Arrival { id: self.ids.next(), departure }
    }

    /// Opens the record of a request.
    fn open(&self, arrival: &Arrival) -> Settlement {
        Settlement::open(Arc::clone(&self.metrics), arrival.id, arrival.departure.clone())
    }
}
