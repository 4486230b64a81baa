//! Watches for bytes that a client sends while its last request is being answered. hyper reads them only after that
//! answer, together with the end of the client's sending side.

use std::{convert::Infallible, future::poll_fn, task::Poll, time::Duration};

use tokio::{
    io::Interest,
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::sleep,
};

use super::progress::Progress;

/// The time between two looks while such bytes wait. Only clients that pipeline cause this cost.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How many bytes from the client are unread.
#[cfg(unix)]
pub(super) fn unread(write: &OwnedWriteHalf) -> u64 {
    let socket: &TcpStream = write.as_ref();
    rustix::io::ioctl_fionread(socket).unwrap_or_default()
}

/// Other systems do not report this.
#[cfg(not(unix))]
pub(super) fn unread(_: &OwnedWriteHalf) -> u64 {
    0
}

/// Records when such bytes arrive.
pub(super) async fn watch(write: &OwnedWriteHalf, progress: &Progress) -> Infallible {
    loop {
        // The change that makes this ready also polls the connection's task, which polls this future.
        let request = poll_fn(|_| progress.awaited_request().map_or(Poll::Pending, Poll::Ready)).await;
        let _ = write.ready(Interest::READABLE).await;
        // If the request changed, the bytes belonged to the next request and are read.
        while progress.awaited_request() == Some(request) {
            progress.unread(unread(write));
            sleep(LOOK_INTERVAL).await;
        }
    }
}
