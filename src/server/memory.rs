//! The most memory of one connection, without what the service holds for its requests.

use super::{
    connection::MAX_BUFFER,
    http2::{CONNECTION_WINDOW, FRAME, MAX_HEAD, MAX_STREAMS, SEND_BUFFER},
    progress::MAX_QUEUED,
};

/// The most memory that one HTTP/1.1 connection of a client uses, in bytes: the buffer with the current head, the buffer that is being
/// filled, and the data that waits to be written.
pub const HTTP1: usize = 2 * MAX_BUFFER + MAX_QUEUED;

/// The additional memory that TLS uses on one connection of a client, in bytes: outgoing records, an incoming record of 18 KiB, and its
/// decrypted content.
pub const TLS: usize = MAX_QUEUED + (2 + 18 + 16) * 1024;

/// Returns the most memory that one HTTP/2 connection of a client uses, in bytes, with answers in pieces of at most `piece` bytes: the
/// data sent ahead, a head, one frame in each direction, and for each request the data that its client has not accepted yet. That may be
/// one piece more than the send buffer.
pub const fn http2(piece: usize) -> usize {
    CONNECTION_WINDOW as usize + MAX_HEAD as usize + 2 * FRAME + MAX_STREAMS as usize * (SEND_BUFFER + piece)
}
