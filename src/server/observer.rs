//! What the server tells the program that it is part of.

use std::{net::IpAddr, sync::Arc};

use http::Extensions;

use super::framing::Fault;

/// Is told what happens to connections, and has the words for requests that never reach the service.
pub trait Observer: Send + Sync + 'static {
    /// A connection from this address begins. It ends when what is returned is dropped, also by a panic.
    fn opened(&self, peer: IpAddr) -> Arc<dyn Client>;

    /// The connection ended: whether by a panic.
    fn closed(&self, panicked: bool);

    /// A deadline ran out, and the connection with it.
    fn cut(&self, deadline: &'static str);

    /// What the client sent is not HTTP.
    fn malformed(&self, fault: Fault);

    /// A TLS handshake failed.
    fn tls_failed(&self);

    /// A request of HTTP/2 found no free slot.
    fn stream_refused(&self);

    /// A panic ended a request of HTTP/2.
    fn stream_panicked(&self);

    /// The whole answer, head and body, to something that is no request. The connection closes behind it.
    fn rejection(&self, rejection: Rejection) -> String;
}

/// The client of one connection, or of one request among several on a connection.
pub trait Client: Send + Sync {
    /// A request begins: whatever the service shall know of its client goes into its extensions.
    fn introduce(&self, extensions: &mut Extensions);

    /// What is under way ends because the client takes nothing of what is ready for it.
    fn stalled(&self);

    /// What is under way ends because the server stops.
    fn stopped(&self);

    /// The same client for one of several requests: that request may end by itself.
    fn part(&self) -> Arc<dyn Client>;
}

/// What came in place of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A head that did not come to its end in time.
    TimedOut,
    /// Plain HTTP, where TLS is spoken.
    PlainHttp,
    /// Something that is not HTTP.
    Malformed(Fault),
}

/// While it lives, a connection is open: also a panic ends it.
pub(super) struct Open<'a>(pub(super) &'a dyn Observer);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.closed(std::thread::panicking());
    }
}
