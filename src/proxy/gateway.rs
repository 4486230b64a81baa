//! The gateway as one worker sees it.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicUsize},
};

use super::{
    answer::{affinity_recorder::WorkerAffinity, drain::DrainTasks},
    arrival::RequestArrival,
    catalogue::Catalogue,
    tables::{SharedState, Tables, TablesError, Tls},
};
use crate::{
    affinity::AffinityMemory,
    auth::Caller,
    concurrent::{random_source::RandomSource, request_ids::RequestIds},
    config::Config,
    domain::{
        clock::Clock,
        random::{NoRandomBytes, RandomBytes},
    },
    metering::{DisconnectRecord, Ledger, Statements},
    metrics::Metrics,
};

/// The gateway of one worker: the tables that requests read, the ledger, the affinity memory, and other services. A reload replaces the
/// tables.
#[derive(Debug)]
pub struct Proxy {
    /// Each worker has a lock of its own. Only a reload writes to the lock, so no request ever waits for it.
    tables: RwLock<Arc<Tables>>,
    ids: RequestIds,
    pub(super) clock: Clock,
    pub(super) random: Arc<RandomSource>,
    /// Counts requests: plus one for each request.
    pub(super) request_count: AtomicUsize,
    /// The ledger, which records a request before the request is sent upstream.
    pub(super) ledger: Arc<Ledger>,
    /// The tasks that drain answers whose clients left.
    pub(super) drains: Arc<DrainTasks>,
    /// The affinity memory, which knows the account of each reference.
    pub origins: Arc<AffinityMemory>,
    /// The same memory, as answers write to it.
    pub(super) affinity: Arc<WorkerAffinity>,
    /// The models that upstreams list.
    pub(super) catalogue: Catalogue,
    /// Reads the usage of each key.
    pub(super) statements: Statements,
}

/// The services that one worker's gateway uses: the ledger, the drains, the affinity memory, and the usage queries of keys.
#[derive(Debug)]
pub struct WorkerContext {
    /// The ledger, which records a request before the request is sent upstream.
    pub ledger: Arc<Ledger>,
    /// The tasks that drain answers whose clients left.
    pub drains: Arc<DrainTasks>,
    /// The affinity memory.
    pub origins: Arc<AffinityMemory>,
    /// Reads the usage of each key.
    pub statements: Statements,
}

impl Proxy {
    /// Makes the gateway of one worker. Its upstream connections belong to the tokio runtime that calls this function.
    ///
    /// # Errors
    /// When the system gives no randomness, which request ids need.
    pub fn new(
        tables: Tables,
        context: WorkerContext,
        clock: Clock,
        random_bytes: RandomBytes,
        random: Arc<RandomSource>,
    ) -> Result<Self, NoRandomBytes> {
        let (tables, ids) = (RwLock::new(Arc::new(tables)), RequestIds::new(clock, random_bytes)?);
        let WorkerContext { ledger, drains, origins, statements } = context;
        let request_count = AtomicUsize::new(0);
        let affinity = Arc::new(WorkerAffinity::new(Arc::clone(&origins), clock));
        let catalogue = Catalogue::default();
        Ok(Self { tables, ids, clock, random, request_count, ledger, drains, origins, affinity, catalogue, statements })
    }

    /// Builds the tables (keys, routes, upstreams, limits) of another configuration for this worker. [`swap`](Self::swap) puts them to
    /// use.
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
        Tables::new(config, tls, metrics, common, &self.random, Some(&self.tables()))
    }

    /// Returns the current tables (keys, routes, upstreams, limits) of this worker. A request keeps the tables that it started with.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the tables (keys, routes, upstreams, limits) for new requests of this worker. A request in progress keeps its tables.
    pub fn swap(&self, tables: Tables) {
        let before = {
            let mut now = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::new(tables))
        };
        // The old tables are dropped here, where no request waits for the lock.
        drop(before);
    }

    /// Returns the clock of this worker's gateway.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the current time of this worker's clock, in milliseconds since 1970-01-01 UTC.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns this worker's source of random numbers.
    pub fn random(&self) -> &RandomSource {
        &self.random
    }

    /// Gives a new request its id. `disconnect` records why the connection of the request ends.
    pub fn arrival(&self, disconnect: DisconnectRecord) -> RequestArrival {
        RequestArrival { id: self.ids.next(), disconnect }
    }

    /// Returns the models that clients can reach only by a wildcard such as `gpt-*`, and that an upstream has; sorted. Contains only
    /// models and upstreams that the caller may use.
    pub async fn behind_wildcards(&self, tables: &Tables, caller: &Caller) -> BTreeSet<String> {
        self.catalogue.behind_wildcards(tables, caller).await
    }
}
