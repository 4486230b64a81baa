//! Every address that is listened on.

use std::net::SocketAddr;

use super::{StartError, server};
use crate::config;

/// Every listener, before anything runs.
pub(super) struct BoundListeners {
    pub(super) data: Vec<std::net::TcpListener>,
    pub(super) listen: SocketAddr,
    pub(super) admin: std::net::TcpListener,
    pub(super) admin_listen: SocketAddr,
    pub(super) metrics: Option<std::net::TcpListener>,
    pub(super) metrics_listen: Option<SocketAddr>,
}

impl BoundListeners {
    pub(super) fn new(server: &config::Server) -> Result<Self, StartError> {
        let refused = |address, setting| move |source| StartError::Listen { address, setting, source };
        let data = server::listen_shared(server.listen, server.workers).map_err(refused(server.listen, "listen"))?;
        let listen = data.first().map_or(Ok(server.listen), std::net::TcpListener::local_addr);
        let listen = listen.map_err(refused(server.listen, "listen"))?;
        let one = |address, setting| {
            let listener = server::listen(address).map_err(refused(address, setting))?;
            let address = listener.local_addr().map_err(refused(address, setting))?;
            Ok::<_, StartError>((listener, address))
        };
        let (admin, admin_listen) = one(server.admin_listen, "admin_listen")?;
        let metrics = server.metrics_listen.map(|address| one(address, "metrics_listen")).transpose()?;
        let (metrics, metrics_listen) = metrics.unzip();
        Ok(Self { data, listen, admin, admin_listen, metrics, metrics_listen })
    }
}
