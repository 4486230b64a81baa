//! The server's interface to the surrounding program.

use std::{net::IpAddr, sync::Arc};

use http::Extensions;

use super::framing::FramingError;

/// What the program around the HTTP server implements: receives the events of connections, and writes the answers to input that is no
/// valid request.
pub trait Observer: Send + Sync + 'static {
    /// A connection from this address began. It ends when the returned value is dropped, also by a panic.
    fn opened(&self, peer: IpAddr) -> Arc<dyn Client>;

    /// The connection ended. Says whether by a panic.
    fn closed(&self, panicked: bool);

    /// A deadline passed, and the connection was closed.
    fn deadline_passed(&self, deadline: &'static str);

    /// The client sent invalid HTTP.
    fn malformed(&self, fault: FramingError);

    /// A TLS handshake failed.
    fn tls_failed(&self);

    /// An HTTP/2 request found no free slot.
    fn stream_refused(&self);

    /// A panic ended an HTTP/2 request.
    fn stream_panicked(&self);

    /// The whole answer, head and body, to input that is no request. The connection closes after it.
    fn rejection(&self, rejection: Rejection) -> String;
}

/// What the program around the HTTP server keeps for the client of one connection, or of one of several concurrent requests on a
/// connection.
pub trait Client: Send + Sync {
    /// A request begins. Adds to its extensions what the service needs to know of its client.
    fn add_extensions(&self, extensions: &mut Extensions);

    /// The current request ends because the client accepts no data.
    fn stalled(&self);

    /// The current request ends because the server stops.
    fn stopped(&self);

    /// The client of one of several concurrent requests: each request has an end of its own.
    fn for_stream(&self) -> Arc<dyn Client>;
}

/// Why the HTTP server rejects a client's input before it becomes a request: too slow, plain HTTP on a TLS port, or invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The head did not arrive in time.
    TimedOut,
    /// Plain HTTP on a TLS port.
    PlainHttp,
    /// Invalid HTTP.
    Malformed(FramingError),
}

/// Guards an open connection: dropping it, also by a panic, reports the end.
pub(super) struct OpenConnection<'a>(pub(super) &'a dyn Observer);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.closed(std::thread::panicking());
    }
}
