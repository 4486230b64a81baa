//! The socket of a client, and what HTTP is spoken over: the socket itself or TLS on it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};
use tokio_rustls::server::TlsStream;

use super::progress::Progress;

/// A client that still sends when its answer is out gets this long, and this much is read away: closing at once would
/// reset the connection and destroy an answer that it has not read yet.
pub(super) const LINGER: Duration = Duration::from_secs(2);
pub(super) const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Reads and writes, and notes when the client takes nothing.
pub(super) struct Socket {
    pub(super) read: OwnedReadHalf,
    pub(super) write: Arc<OwnedWriteHalf>,
    pub(super) progress: Arc<Progress>,
}

/// What HTTP is spoken over. Shutting it down says farewell, where there is a way to: the connection itself is ended by
/// the server.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The socket below.
    fn into_socket(self) -> Socket;
}

impl Wire for Socket {
    fn into_socket(self) -> Socket {
        self
    }
}

impl Wire for TlsStream<Socket> {
    fn into_socket(self) -> Socket {
        self.into_inner().0
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, into)
    }
}

impl Socket {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
        at_once: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.write.as_ref().as_ref().poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    if self.progress.is_stalled()
                        && let Ok(len) = at_once(&self.write)
                    {
                        self.progress.flows(len);
                        return Poll::Ready(Ok(len));
                    }
                    self.progress.stalls();
                    return Poll::Pending;
                }
            }
            match write(&self.write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    if let Ok(len) = written {
                        self.progress.flows(len);
                    }
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |write| write.try_write(data), |write| at_once(write, &[io::IoSlice::new(data)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |write| write.try_write_vectored(data), |write| at_once(write, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server ends the writing side itself, see `Connection::close`.
        Poll::Ready(Ok(()))
    }
}

/// Writes without asking whether there is room. Linux tells of room only once a third of the socket's buffer is free,
/// which may be more than a megabyte: a client that reads slowly would look, until its deadline, as if it did not read
/// at all. hyper is polled before the deadline is looked at, so this is where such a client is told apart.
#[cfg(unix)]
fn at_once(write: &OwnedWriteHalf, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(write.as_ref(), data)?)
}

#[cfg(not(unix))]
fn at_once(_: &OwnedWriteHalf, _: &[io::IoSlice<'_>]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// Has the kernel ask every 20 s whether a client that closed its sending side is there. A client that closed all of its
/// connection with its request looks like one that waits, and a silent upstream gives nothing to write that would tell them
/// apart. The kernel of such a client answers for a minute (`tcp_fin_timeout`), then resets: that is known within 81 s. A machine
/// that is away answers nothing: that is known within 50 s.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn probe(write: &OwnedWriteHalf) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};

    let socket: &tokio::net::TcpStream = write.as_ref();
    let _ = set_tcp_keepidle(socket, Duration::from_secs(20))
        .and_then(|()| set_tcp_keepintvl(socket, Duration::from_secs(10)))
        .and_then(|()| set_tcp_keepcnt(socket, 3))
        .and_then(|()| set_socket_keepalive(socket, true));
}

/// Elsewhere such a client is noticed when the next write fails.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn probe(_: &OwnedWriteHalf) {}

/// Resolves when the connection is broken: the client reset it, as its kernel does when bytes come for a client that is gone.
pub(super) async fn failed(write: &OwnedWriteHalf) {
    let _ = write.ready(tokio::io::Interest::ERROR).await;
}

/// Resolves when the client closed its sending side. On Linux the kernel tells without anything being read, so that bytes
/// which wait to be read cannot hide it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) async fn left(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::PRIORITY).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// Elsewhere it has to be asked for.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) async fn left(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// Urgent data, which HTTP has no use for, shall not make a loop spin. Half of the 100 ms within which a departure
/// is promised to be noticed.
const PRIORITY_PAUSE: Duration = Duration::from_millis(50);

/// Reads away what the client still sends, for a short time.
pub(super) async fn linger(read: &mut OwnedReadHalf) {
    let mut scratch = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    let _ = tokio::time::timeout(LINGER, async {
        while left > 0 {
            match read.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(len) => left = left.saturating_sub(len),
            }
        }
    })
    .await;
}
