//! The client's socket, and the transport of HTTP: the socket itself or TLS over it.

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

/// How long and how many bytes to read from a client that still sends after its answer: an immediate close would reset
/// the connection and destroy the unread answer.
pub(super) const LINGER: Duration = Duration::from_secs(2);
pub(super) const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Reads and writes, and records when the client accepts no data.
pub(super) struct Socket {
    pub(super) read: OwnedReadHalf,
    pub(super) write: Arc<OwnedWriteHalf>,
    pub(super) progress: Arc<Progress>,
}

/// The transport of HTTP. Its shutdown sends a TLS `close_notify`, if there is TLS. The server itself closes the
/// connection.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The socket below.
    fn into_socket(self) -> Socket;
}

impl Transport for Socket {
    fn into_socket(self) -> Socket {
        self
    }
}

impl Transport for TlsStream<Socket> {
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
        write_unready: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.write.as_ref().as_ref().poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    if self.progress.is_stalled()
                        && let Ok(len) = write_unready(&self.write)
                    {
                        self.progress.flows(len);
                        return Poll::Ready(Ok(len));
                    }
                    self.progress.write_stalled();
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
        self.poll_write_with(cx, |write| write.try_write(data), |write| write_unready(write, &[io::IoSlice::new(data)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |write| write.try_write_vectored(data), |write| write_unready(write, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server itself closes the writing side, see `Connection::close`.
        Poll::Ready(Ok(()))
    }
}

/// Writes without waiting for writability. Linux reports writability only once a third of the socket's buffer is free,
/// which may be more than a megabyte. A client that reads slowly would then look as if it did not read at all. hyper is
/// polled before the deadline is checked, so this call detects such a client in time.
#[cfg(unix)]
fn write_unready(write: &OwnedWriteHalf, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(write.as_ref(), data)?)
}

#[cfg(not(unix))]
fn write_unready(_: &OwnedWriteHalf, _: &[io::IoSlice<'_>]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// Turns on TCP keepalive every 20 s for a client that closed its sending side. A client that closed the whole
/// connection looks the same, and while the upstream is silent no write would reveal the difference. The kernel of such
/// a client acknowledges for a minute (`tcp_fin_timeout`) and then resets, so the end is known within 81 s. A machine
/// that is off answers nothing, so its end is known within 50 s.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn enable_keepalive(write: &OwnedWriteHalf) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};

    let socket: &tokio::net::TcpStream = write.as_ref();
    let _ = set_tcp_keepidle(socket, Duration::from_secs(20))
        .and_then(|()| set_tcp_keepintvl(socket, Duration::from_secs(10)))
        .and_then(|()| set_tcp_keepcnt(socket, 3))
        .and_then(|()| set_socket_keepalive(socket, true));
}

/// On other systems, such a client is noticed when the next write fails.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn enable_keepalive(_: &OwnedWriteHalf) {}

/// Resolves when the connection is broken. The kernel of a client that is gone resets the connection when bytes arrive.
pub(super) async fn connection_broken(write: &OwnedWriteHalf) {
    let _ = write.ready(tokio::io::Interest::ERROR).await;
}

/// Resolves when the client closes its sending side. Linux reports this without a read, so unread bytes cannot hide it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) async fn sending_side_closed(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::PRIORITY).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// Other systems report this only with readability.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) async fn sending_side_closed(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// The pause that keeps urgent data, which HTTP does not use, from making the loop spin. It is half of the 100 ms
/// within which a disconnect must be noticed.
const PRIORITY_PAUSE: Duration = Duration::from_millis(50);

/// Reads and drops for a short time what the client still sends.
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
