//! Bytes that a client sends while the answer to its last request is under way. hyper reads them once that answer is out, and
//! with them the end of the client's sending side, if it came.

use std::{convert::Infallible, future::poll_fn, task::Poll, time::Duration};

use tokio::{
    io::Interest,
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::sleep,
};

use super::progress::Progress;

/// While such bytes wait it is asked this often whether more came. Only clients that pipeline cost this.
const PAUSE: Duration = Duration::from_millis(20);

/// How many bytes of a client wait to be read.
#[cfg(unix)]
pub(super) fn unread(write: &OwnedWriteHalf) -> u64 {
    let socket: &TcpStream = write.as_ref();
    rustix::io::ioctl_fionread(socket).unwrap_or_default()
}

/// Elsewhere that is not known.
#[cfg(not(unix))]
pub(super) fn unread(_: &OwnedWriteHalf) -> u64 {
    0
}

/// Notes when such bytes come.
pub(super) async fn watch(write: &OwnedWriteHalf, progress: &Progress) -> Infallible {
    loop {
        // Whatever makes this so polls the connection's task, and so this.
        let request = poll_fn(|_| progress.awaited().map_or(Poll::Pending, Poll::Ready)).await;
        let _ = write.ready(Interest::READABLE).await;
        // Otherwise the bytes were those of the next request, and are read.
        while progress.awaited() == Some(request) {
            progress.unread(unread(write));
            sleep(PAUSE).await;
        }
    }
}
