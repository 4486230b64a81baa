//! hyper's HTTP/2, with limits that bound what one client may hold.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::server::TlsStream;

use super::{http_version::Http, requests::Requests, service::Service, socket::Socket, streams::Streams};

/// Requests at once on a connection of HTTP/2: more than one process of a client has under way, and few enough that
/// what may be left of them (see `memory::http2`) stays bounded. Clients wait, or open another connection;
/// one that begins with more before it is told gets `REFUSED_STREAM` for those, and may try them again.
pub(super) const MAX_STREAMS: u32 = 32;

/// What a client of HTTP/2 may send ahead of what is read, of one request and of all: the latter is memory of ours.
const STREAM_WINDOW: u32 = 64 * 1024;
pub(super) const WINDOW: u32 = 256 * 1024;

/// Of a request of HTTP/2, with 32 bytes for each header (RFC 9113, section 6.5.2): clients are told. Less than over
/// HTTP/1.1, as there may be many at once; no SDK sends a tenth of it.
pub(super) const MAX_HEAD: u32 = 16 * 1024;

/// Of HTTP/2, as long as nobody agrees on larger ones.
pub(super) const FRAME: usize = 16 * 1024;

/// Of each answer over HTTP/2, this much waits for the socket before hyper takes another piece.
pub(super) const SEND_BUFFER: usize = 4 * 1024;

/// A client of HTTP/2 that vanished without a word is noticed also where nothing is sent.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What serves a connection. A ping may stay unanswered for `write_stall`, and not less: it may be because of what the client
/// does not read that its answer does not come.
pub(super) fn builder(streams: Streams, write_stall: Duration) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(write_stall);
    builder
}

impl<S: Service> Http for Pin<Box<http2::Connection<TokioIo<TlsStream<Socket>>, Requests<S>, Streams>>> {
    const MULTIPLEXED: bool = true;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Future::poll(self.as_mut(), cx).map(|done| done.is_ok())
    }

    fn graceful_shutdown(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}
