//! The socket of a client as hyper sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{
    framing::{Fault, Framing},
    progress::Progress,
};

/// Reads and writes. Notes when the client sends and when it does not read, and lets only whole requests through.
pub(super) struct Io {
    pub(super) read: OwnedReadHalf,
    pub(super) write: Arc<OwnedWriteHalf>,
    pub(super) progress: Arc<Progress>,
    pub(super) framing: Framing,
}

/// The body under way is not framed as it should be.
#[derive(Debug, thiserror::Error)]
#[error("the request is malformed: {}", .0.name())]
struct Malformed(Fault);

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(fault) = this.framing.fault() {
            return after(fault);
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.read).poll_read(cx, into))?;
        let came = into.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.progress.received();
        let heads = this.framing.heads();
        let passed = this.framing.pass(came);
        this.progress.passed(this.framing.heads() - heads);
        if let Some(fault) = this.framing.fault() {
            this.progress.malformed(fault);
            into.set_filled(before + passed);
            if passed == 0 {
                return after(fault);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What is read behind a fault: in a body an error, so that it does not look like its end. Where a head should be,
/// nothing any more: what is under way goes on, and then the driver answers.
fn after(fault: Fault) -> Poll<io::Result<()>> {
    if fault.is_in_body() {
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Malformed(fault))))
    } else {
        Poll::Pending
    }
}

impl Io {
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

impl AsyncWrite for Io {
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
        // The server ends the writing side itself, see `serve`.
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
