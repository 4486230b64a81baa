//! Why a connection to a client ended, told to whatever is dropped because of it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use super::outcome::End;

/// One per connection. The server says why it drops the connection; a body that is dropped with it reads why.
#[derive(Clone, Debug, Default)]
pub struct Departure(Arc<AtomicU8>);

const CLIENT_GONE: u8 = 0;
const CLIENT_STALLED: u8 = 1;
const GATEWAY_STOP: u8 = 2;

impl Departure {
    /// The client takes nothing of what is ready for it.
    pub fn stalled(&self) {
        self.0.store(CLIENT_STALLED, Ordering::Relaxed);
    }

    /// Tidegate stops.
    pub fn gateway_stop(&self) {
        self.0.store(GATEWAY_STOP, Ordering::Relaxed);
    }

    /// The reason as an outcome; as long as nobody said otherwise, the client left.
    pub fn end(&self) -> End {
        match self.0.load(Ordering::Relaxed) {
            CLIENT_STALLED => End::ClientStalled,
            GATEWAY_STOP => End::GatewayStop,
            _ => End::ClientGone,
        }
    }
}

const _: () = assert!(CLIENT_GONE == 0, "the default of an AtomicU8");
