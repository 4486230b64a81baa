//! Lets only whole HTTP/1.1 requests through to hyper.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::{Fault, Framing},
    progress::Progress,
    socket::Wire,
};

/// Reads and writes as hyper wants it. Notes when the client sends, and lets only whole requests through.
pub(super) struct Guard<W> {
    pub(super) wire: W,
    pub(super) progress: Arc<Progress>,
    pub(super) framing: Framing,
}

/// The body under way is not framed as it should be.
#[derive(Debug, thiserror::Error)]
#[error("the request is malformed: {}", .0.name())]
struct Malformed(Fault);

impl<W: Wire> AsyncRead for Guard<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(fault) = this.framing.fault() {
            return after(fault);
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.wire).poll_read(cx, into))?;
        let came = into.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.progress.received();
        let (heads, ends) = (this.framing.heads(), this.framing.ends());
        let passed = this.framing.pass(came);
        this.progress.passed(this.framing.heads() - heads);
        this.progress.ended(this.framing.ends() - ends);
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

impl<W: Wire> AsyncWrite for Guard<W> {
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
