//! What the driver of a connection needs of hyper, whichever HTTP is spoken.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;

use super::{guard::Guard, requests::Requests, service::Service, socket::Wire};

/// hyper's side of a connection.
pub(super) trait Http {
    /// Whether there may be several requests at once.
    const MULTIPLEXED: bool;

    /// Polls it to its end: whether it ended in order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Ends it once what is under way is over.
    fn graceful_shutdown(&mut self);
}

impl<W: Wire, S: Service> Http for http1::Connection<TokioIo<Guard<W>>, Requests<S>> {
    const MULTIPLEXED: bool = false;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // An error is the client's (what it was about was answered, or nobody is there to read an answer), or that of a
        // body that broke.
        self.poll_without_shutdown(cx).map(|done| done.is_ok())
    }

    fn graceful_shutdown(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}
