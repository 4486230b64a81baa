//! The most memory that one connection may come to hold, apart from what the service holds for its requests.

use super::{
    connection::MAX_BUFFER,
    http2::{FRAME, MAX_HEAD, MAX_STREAMS, SEND_BUFFER, WINDOW},
    progress::MAX_QUEUED,
};

/// Over HTTP/1.1: the buffer that the head of the request under way keeps alive, the one that is being read into, what waits to
/// be written.
pub const HTTP1: usize = 2 * MAX_BUFFER + MAX_QUEUED;

/// For TLS: records on their way out, 18 KiB of one that comes in, and what it decrypts to.
pub const TLS: usize = MAX_QUEUED + (2 + 18 + 16) * 1024;

/// Over HTTP/2, where an answer comes in pieces of at most `piece` bytes: what was sent ahead, a head, a frame each way, and of each
/// request that is over what its client has not taken yet: that may be a piece more than is buffered.
pub const fn http2(piece: usize) -> usize {
    WINDOW as usize + MAX_HEAD as usize + 2 * FRAME + MAX_STREAMS as usize * (SEND_BUFFER + piece)
}
