//! Computes the most memory that a configuration allows.

use std::fmt;

use crate::{
    affinity,
    config::Config,
    proxy,
    server::memory::{HTTP1, TLS, http2},
    upstream::connection::{MAX_BUFFER, PER_CONNECTION, PER_TLS},
};

/// The most connections to the admin plane at once. They come from scrapers and probes, not from clients.
pub(super) const ADMIN_CONNECTIONS: usize = 256;

/// The rest of a connection's memory: tasks, parsed heads, timers, nesting of JSON. It is small and has no limit of its
/// own.
const OVERHEAD: u64 = 32 * 1024;

/// The memory of one client connection over plain HTTP/1.1.
const CLIENT_CONNECTION: u64 = HTTP1 as u64 + OVERHEAD;

/// The most memory that the gateway may use under a configuration, in bytes: request bodies, connections, affinity memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    bodies: u64,
    /// The number of client connections, and the bytes of each with its request, without the request's body.
    clients: (u64, u64),
    /// The number of idle connections to upstreams, and the bytes of each.
    idle: (u64, u64),
    /// The number of connections to the admin plane, and the bytes of each.
    admin: (u64, u64),
    /// The affinity memory.
    origins: u64,
}

impl MemoryBounds {
    /// Computes the most memory that a configuration allows, for this number of client connections.
    pub fn new(config: &Config, connections: usize) -> Self {
        let https = config.upstreams.iter().any(|upstream| upstream.base_url.scheme_str() == Some("https"));
        let upstream = PER_CONNECTION as u64 + if https { PER_TLS as u64 } else { 0 };
        let request = proxy::PER_REQUEST as u64 + proxy::CONNECTIONS_PER_REQUEST as u64 * upstream;
        let idle = config.upstreams.iter().map(|upstream| upstream.max_idle_connections as u64).sum::<u64>();
        // An HTTP/2 connection has no HTTP/1.1 buffers, but the buffers of many requests.
        let over_tls = TLS as u64 + CLIENT_CONNECTION.max(http2(MAX_BUFFER) as u64 + OVERHEAD);
        let client = if config.server.tls.is_some() { over_tls } else { CLIENT_CONNECTION };
        let listeners = 1 + u64::from(config.server.metrics_listen.is_some());
        Self {
            bodies: config.server.max_body_memory,
            clients: (connections as u64, client + request),
            idle: (idle.saturating_mul(config.server.workers as u64), upstream),
            admin: (listeners * ADMIN_CONNECTIONS as u64, CLIENT_CONNECTION),
            origins: affinity::most_bytes(config.affinity.max_entries),
        }
    }

    /// The most memory that the gateway may use, in bytes: the sum over all parts that have a limit.
    pub fn total(&self) -> u64 {
        let parts = [self.clients, self.idle, self.admin];
        parts.iter().fold(self.bodies.saturating_add(self.origins), |sum, (count, each)| {
            sum.saturating_add(count.saturating_mul(*each))
        })
    }
}

/// One line with all parts.
impl fmt::Display for MemoryBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let kib = |bytes: u64| bytes.div_ceil(1 << 10);
        let Self { bodies, clients, idle, admin, origins } = self;
        write!(
            f,
            "at most {} MiB: request bodies {} MiB, {} connections of {} KiB, {} idle ones to upstreams of {} KiB, {} \
             to the admin plane of {} KiB, ids of state {} MiB; besides the process itself and the kernel's buffers",
            mib(self.total()),
            mib(*bodies),
            clients.0,
            kib(clients.1),
            idle.0,
            kib(idle.1),
            admin.0,
            kib(admin.1),
            mib(*origins),
        )
    }
}
