//! The interface between the connection's driver and hyper, the same for HTTP/1.1 and HTTP/2.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;

use super::{guard::Guard, requests::Requests, service::Service, socket::Transport};

/// hyper's side of a connection.
pub(super) trait HttpConnection {
    /// Whether several requests may run at once.
    const MULTIPLEXED: bool;

    /// Polls the connection until it ends. Returns whether it ended without an error.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Ends the connection after the requests in progress.
    fn graceful_shutdown(&mut self);
}

impl<W: Transport, S: Service> HttpConnection for http1::Connection<TokioIo<Guard<W>>, Requests<S>> {
    const MULTIPLEXED: bool = false;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // An error comes from the client or from a broken body. Either its request was answered already, or nobody is
        // there to read an answer.
        self.poll_without_shutdown(cx).map(|done| done.is_ok())
    }

    fn graceful_shutdown(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}
