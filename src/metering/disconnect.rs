//! Why a client's connection ended: a record that the server writes, and that a dropped response body reads.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::domain::outcome::EndReason;

/// The shared record of why a client's connection, or one request on it, ends early. The server writes the reason when it drops the
/// connection. A response body that is dropped with the connection reads the reason.
#[derive(Clone, Debug, Default)]
pub struct DisconnectRecord(Arc<DisconnectState>);

#[derive(Debug, Default)]
struct DisconnectState {
    /// One of the constants below.
    reason: AtomicU8,
    /// Record of the connection, where this is the record of one request on the connection.
    connection: Option<DisconnectRecord>,
    /// Address of the other end of the connection.
    peer: Option<IpAddr>,
}

const CLIENT_GONE: u8 = 0;
const CLIENT_STALLED: u8 = 1;
const GATEWAY_STOP: u8 = 2;

impl DisconnectRecord {
    /// Makes the record of why a connection from this address ends.
    pub fn of(peer: IpAddr) -> Self {
        Self(Arc::new(DisconnectState { peer: Some(peer), ..DisconnectState::default() }))
    }

    /// Returns the address that the client's connection comes from, if known.
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// Makes the record for one of several requests on the connection (HTTP/2). The request may end before the connection does.
    #[must_use]
    pub fn for_request(&self) -> Self {
        Self(Arc::new(DisconnectState {
            reason: AtomicU8::default(),
            connection: Some(self.clone()),
            peer: self.0.peer,
        }))
    }

    /// Records that the connection ends because the client does not read the data that is ready.
    pub fn stalled(&self) {
        self.0.reason.store(CLIENT_STALLED, Ordering::Relaxed);
    }

    /// Records that the connection ends because Tidegate stops.
    pub fn gateway_stop(&self) {
        self.0.reason.store(GATEWAY_STOP, Ordering::Relaxed);
    }

    /// Returns why the connection ended, as the end reason of its request. Without a recorded reason, the client left.
    pub fn end(&self) -> EndReason {
        match (self.0.reason.load(Ordering::Relaxed), &self.0.connection) {
            (CLIENT_STALLED, _) => EndReason::ClientStalled,
            (GATEWAY_STOP, _) => EndReason::GatewayStop,
            (_, Some(connection)) => connection.end(),
            _ => EndReason::ClientGone,
        }
    }
}

const _: () = assert!(CLIENT_GONE == 0, "the default of an AtomicU8 has to mean that the client left");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_alone_or_with_its_connection() {
        let connection = DisconnectRecord::default();
        let (one, other) = (connection.for_request(), connection.for_request());
        assert_eq!(
            (one.end(), other.end(), connection.end()),
            (EndReason::ClientGone, EndReason::ClientGone, EndReason::ClientGone)
        );
        one.stalled();
        assert_eq!(
            (one.end(), other.end(), connection.end()),
            (EndReason::ClientStalled, EndReason::ClientGone, EndReason::ClientGone)
        );
        connection.gateway_stop();
        assert_eq!(
            (one.end(), other.end(), connection.end()),
            (EndReason::ClientStalled, EndReason::GatewayStop, EndReason::GatewayStop)
        );
    }
}
