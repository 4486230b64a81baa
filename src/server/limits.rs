//! The deadlines of a connection.

use std::time::Duration;

/// How long a client may take. Each is read when a connection begins, so that a change holds for new connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From accept to the first byte, and for the TLS handshake.
    pub first_byte: Duration,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// While the client takes nothing of what is ready for it.
    pub write_stall: Duration,
}
