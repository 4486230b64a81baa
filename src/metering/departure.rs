//! Why a connection to a client ended, told to whatever is dropped because of it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::domain::outcome::EndReason;

/// One per connection, or per part of one. The server says why it drops the connection; a body that is dropped with it
/// reads why.
#[derive(Clone, Debug, Default)]
pub struct DisconnectRecord(Arc<DisconnectReason>);

#[derive(Debug, Default)]
struct DisconnectReason {
    said: AtomicU8,
    whole: Option<DisconnectRecord>,
    /// Whose connection it is.
    peer: Option<IpAddr>,
}

const CLIENT_GONE: u8 = 0;
const CLIENT_STALLED: u8 = 1;
const GATEWAY_STOP: u8 = 2;

impl DisconnectRecord {
    /// That of a connection from this address.
    pub fn of(peer: IpAddr) -> Self {
        Self(Arc::new(DisconnectReason { peer: Some(peer), ..DisconnectReason::default() }))
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// That of one of several requests on the connection, which may end by itself.
    #[must_use]
    pub fn of_part(&self) -> Self {
        Self(Arc::new(DisconnectReason { said: AtomicU8::default(), whole: Some(self.clone()), peer: self.0.peer }))
    }

    /// The client takes nothing of what is ready for it.
    pub fn stalled(&self) {
        self.0.said.store(CLIENT_STALLED, Ordering::Relaxed);
    }

    /// Tidegate stops.
    pub fn gateway_stop(&self) {
        self.0.said.store(GATEWAY_STOP, Ordering::Relaxed);
    }

    /// The reason as an outcome; as long as nobody said otherwise, the client left.
    pub fn end(&self) -> EndReason {
        match (self.0.said.load(Ordering::Relaxed), &self.0.whole) {
            (CLIENT_STALLED, _) => EndReason::ClientStalled,
            (GATEWAY_STOP, _) => EndReason::GatewayStop,
            (_, Some(whole)) => whole.end(),
            _ => EndReason::ClientGone,
        }
    }
}

const _: () = assert!(CLIENT_GONE == 0, "the default of an AtomicU8");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_by_itself_or_with_the_whole() {
        let whole = DisconnectRecord::default();
        let (one, other) = (whole.of_part(), whole.of_part());
        assert_eq!(
            (one.end(), other.end(), whole.end()),
            (EndReason::ClientGone, EndReason::ClientGone, EndReason::ClientGone)
        );
        one.stalled();
        assert_eq!(
            (one.end(), other.end(), whole.end()),
            (EndReason::ClientStalled, EndReason::ClientGone, EndReason::ClientGone)
        );
        whole.gateway_stop();
        assert_eq!(
            (one.end(), other.end(), whole.end()),
            (EndReason::ClientStalled, EndReason::GatewayStop, EndReason::GatewayStop)
        );
    }
}
