//! The deadlines of a connection.

use std::time::Duration;

/// How long a client of the HTTP server may take for its first byte, for a head, between requests, and to accept data. A connection reads
/// these times when it begins, so a change affects new connections only.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From accept to the first byte; also for the TLS handshake.
    pub first_byte: Duration,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// How long the client may accept no data although data is ready.
    pub write_stall: Duration,
}
