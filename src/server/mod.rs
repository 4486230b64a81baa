//! An HTTP server that knows nothing of the gateway, and imports nothing of the gateway.
//!
//! [`listen()`], [`listen_shared`] or, for a Unix socket, `listen_on_socket` makes listeners. [`run`] serves one listener to its end,
//! with a [`ServerContext`]:
//!
//! - a [`Service`], which is any tower service that takes a [`RequestBody`] and never fails;
//! - a [`Shutdown`]: leave (no connection is kept), drain (no connection is accepted, and requests in progress end), stop;
//! - [`Deadlines`], the deadlines of a connection; a semaphore bounds the number of connections over all listeners;
//! - an [`Observer`], which hears of each event. It names the [`Client`] of each connection, and writes the answers to input that never
//!   became a request;
//! - for TLS and HTTP/2, [`TlsContext`] with [`acceptor`] and [`Certificates`].
//!
//! The bytes of a connection pass these layers: `socket` (TCP; notes when the client accepts no data), rustls if there is TLS,
//! `guard` (`framing` checks where each request begins and ends), hyper, `requests`, the service. `progress` knows the
//! state of the connection and which deadline applies. `connection` drives all of them.

mod accept;
mod bind;
mod body;
mod connection;
mod deadlines;
mod framing;
mod guard;
mod heartbeat;
mod http2;
mod http_version;
mod listen;
pub mod memory;
mod observer;
mod progress;
mod requests;
mod service;
mod shutdown;
mod socket;
mod streams;
mod tls;
mod unread;

pub use self::{
    accept::run,
    bind::Listener,
    body::RequestBody,
    connection::{ServerContext, TlsContext},
    deadlines::Deadlines,
    framing::FramingError,
    heartbeat::Heartbeat,
    listen::{listen, listen_shared},
    observer::{Client, Observer, Rejection},
    service::Service,
    shutdown::Shutdown,
    tls::{Certificates, acceptor},
};

#[cfg(unix)]
pub use bind::listen_on_socket;
