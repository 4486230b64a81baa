//! A connection to an upstream. It records whether any byte was read since a request was sent, for requests that failed on it.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// The number of the last request of a sender, over all of its connections.
pub(super) type Turn = Arc<AtomicU64>;

/// The record of a connection.
#[derive(Debug)]
pub(super) struct ConnectionTrace {
    /// When the connection was made.
    pub(super) born: Instant,
    /// The turn of the last read; 0 = nothing was read yet.
    read_in: AtomicU64,
}

impl ConnectionTrace {
    /// Whether the connection delivered data before this turn, and nothing since the request of this turn was sent.
    pub(super) fn was_idle(&self, turn: u64) -> bool {
        let read_in = self.read_in.load(Ordering::Relaxed);
        read_in > 0 && read_in < turn
    }
}

/// A connection to an upstream.
pub(super) struct UpstreamConnection<S> {
    stream: S,
    trace: Arc<ConnectionTrace>,
    turn: Turn,
    /// Whether the upstream accepts no more data. Its earlier answer may still be readable.
    write_closed: bool,
}

impl<S> fmt::Debug for UpstreamConnection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("trace", &self.trace).finish_non_exhaustive()
    }
}

impl<S> UpstreamConnection<S> {
    pub(super) fn new(stream: S, turn: Turn) -> Self {
        let trace = ConnectionTrace { born: Instant::now(), read_in: AtomicU64::new(0) };
        Self { stream, trace: Arc::new(trace), turn, write_closed: false }
    }

    /// Reports success for a write to a connection that the upstream closed. An upstream may answer before it read the whole
    /// request, and then close: the write fails while the answer waits. hyper stops at a write error and does not read, so hyper
    /// gets no error. The read then finds the answer or the end.
    fn written(&mut self, written: io::Result<usize>, len: usize) -> io::Result<usize> {
        match written {
            Err(error) if is_closed(&error) => {
                self.write_closed = true;
                Ok(len)
            }
            written => written,
        }
    }
}

/// Whether the peer closed the connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof)
}

impl<S> Connection for UpstreamConnection<S> {
    fn connected(&self) -> Connected {
        // The gateway speaks no HTTP/2 to upstreams, and no proxy that needs absolute URLs is used.
        Connected::new().extra(Arc::clone(&self.trace))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UpstreamConnection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.trace.read_in.store(self.turn.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UpstreamConnection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.write_closed {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.written(written, buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.write_closed {
            return Poll::Ready(Ok(len));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.written(written, len))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_closed {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.written(flushed.map(|()| 0), 0).map(drop))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_closed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
