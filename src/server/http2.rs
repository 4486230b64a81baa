//! Configures hyper's HTTP/2 with limits that bound the memory of one client.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::server::TlsStream;

use super::{http_version::HttpConnection, requests::Requests, service::Service, socket::Socket, streams::Streams};

/// The most concurrent requests on an HTTP/2 connection. It is more than one client process has in progress, and few
/// enough that the memory stays bounded (see `memory::http2`). Clients wait, or open another connection. A client that
/// starts more before it knows the limit gets `REFUSED_STREAM` for those, and may try them again.
pub(super) const MAX_STREAMS: u32 = 32;

/// How much unread data a client may send ahead: for one request, and for the whole connection. The latter bounds our
/// memory.
const STREAM_WINDOW: u32 = 64 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 256 * 1024;

/// The largest head of an HTTP/2 request, counting 32 bytes extra for each header (RFC 9113, section 6.5.2). Clients
/// are told. It is less than over HTTP/1.1, because many requests may run at once; no SDK sends a tenth of it.
pub(super) const MAX_HEAD: u32 = 16 * 1024;

/// The size of an HTTP/2 frame unless both sides agree on a larger one.
pub(super) const FRAME: usize = 16 * 1024;

/// How much of each answer may wait for the socket before hyper asks for more.
pub(super) const SEND_BUFFER: usize = 4 * 1024;

/// The time between two pings. They detect a client that vanished although nothing is being sent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Builds hyper's HTTP/2 server. A ping may stay unanswered for `write_stall`: its answer may wait behind data that the
/// client does not read.
pub(super) fn builder(streams: Streams, write_stall: Duration) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(write_stall);
    builder
}

impl<S: Service> HttpConnection for Pin<Box<http2::Connection<TokioIo<TlsStream<Socket>>, Requests<S>, Streams>>> {
    const MULTIPLEXED: bool = true;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Future::poll(self.as_mut(), cx).map(|done| done.is_ok())
    }

    fn graceful_shutdown(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}
