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
    config::{Config, Timeouts},
    domain::{
        chance::{Chance, NoChance},
        clock::Clock,
        departure::Departure,
        id::{RequestId, RequestIds},
    },
    metering::Settlement,
    metrics::Metrics,
    routing::Routes,
    upstream::{
        Unusable, Upstream,
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
    tls: Vec<Arc<ClientConfig>>,
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

impl Tables {
    /// Builds the snapshot.
    ///
    /// # Errors
    /// When an upstream cannot be used as it is configured.
    pub fn new(config: &Config) -> Result<Self, TablesError> {
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        let mut tls = Vec::with_capacity(config.upstreams.len());
        let mut common: Option<Arc<ClientConfig>> = None;
        for upstream in &config.upstreams {
            upstreams.push(Arc::new(Upstream::new(upstream.clone())?));
            let refused = |error| TablesError::Tls(Arc::clone(&upstream.name), error);
            // Reading the system's roots takes milliseconds: once for all upstreams without roots of their own.
            tls.push(match (&upstream.ca_pem, &common) {
                (Some(pem), _) => Arc::new(send::tls(Some(pem)).map_err(refused)?),
                (None, Some(common)) => Arc::clone(common),
                (None, None) => Arc::clone(common.insert(Arc::new(send::tls(None).map_err(refused)?))),
            });
        }
        Ok(Self {
            keys: Keys::new(&config.keys),
            routes: Routes::new(config),
            upstreams,
            tls,
            timeouts: config.timeouts.clone(),
            max_body_bytes: config.server.max_body_bytes,
        })
    }
}

/// The gateway as one worker sees it: the shared tables, and clients of its own for every upstream.
#[derive(Debug)]
pub struct Proxy {
    tables: Arc<Tables>,
    senders: Vec<Sender>,
    metrics: Arc<Metrics>,
    ids: RequestIds,
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
    pub fn new(tables: Arc<Tables>, metrics: Arc<Metrics>, clock: Clock, chance: Chance) -> Result<Self, NoChance> {
        let senders = tables
            .upstreams
            .iter()
            .zip(&tables.tls)
            .map(|(upstream, tls)| Sender::new(&upstream.config, &tables.timeouts, tls))
            .collect();
        Ok(Self { tables, senders, metrics, ids: RequestIds::new(clock, chance)? })
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
