//! Passes only valid HTTP/1.1 requests to hyper.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::{Framing, FramingError},
    progress::Progress,
    socket::Transport,
};

/// The I/O object that hyper reads from and writes to. It records when the client sends, and passes only valid
/// requests.
pub(super) struct Guard<W> {
    pub(super) wire: W,
    pub(super) progress: Arc<Progress>,
    pub(super) framing: Framing,
}

/// The framing of the current body is malformed.
#[derive(Debug, thiserror::Error)]
#[error("the framing of the HTTP request is malformed: {}", .0.name())]
struct MalformedBody(FramingError);

impl<W: Transport> AsyncRead for Guard<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(fault) = this.framing.fault() {
            return read_after_error(fault);
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.wire).poll_read(cx, into))?;
        let received = into.filled().get(before..).unwrap_or_default();
        if received.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.progress.received();
        let (heads, ends) = (this.framing.heads(), this.framing.complete_requests());
        let passed = this.framing.pass(received);
        this.progress.heads_passed(this.framing.heads() - heads);
        this.progress.requests_read(this.framing.complete_requests() - ends);
        if let Some(fault) = this.framing.fault() {
            this.progress.malformed(fault);
            into.set_filled(before + passed);
            if passed == 0 {
                return read_after_error(fault);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The result of a read after a framing error. In a body it is an I/O error, so that the body does not look complete.
/// In a head, nothing more arrives: earlier requests continue, and then the driver answers.
fn read_after_error(fault: FramingError) -> Poll<io::Result<()>> {
    if fault.is_in_body() {
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, MalformedBody(fault))))
    } else {
        Poll::Pending
    }
}

impl<W: Transport> AsyncWrite for Guard<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
