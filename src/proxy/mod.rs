//! The gateway itself. Joins keys, routes, upstreams and metering into the path of one request ([`forward`]).
//!
//! The folders follow that path: `request` admits and reads a request, `placement` finds its destination, `attempts`
//! sends it to upstreams until one answers, `answer` relays the answer and drains it if the client left.

mod answer;
mod arrival;
mod attempts;
mod catalogue;
pub mod cost;
pub mod error;
pub mod explain;
pub mod forward;
mod gateway;
mod placement;
pub mod polls;
mod quota;
mod rejection;
mod request;
mod settle;
pub mod statement;
mod tables;

pub use answer::{drain::DrainTasks, respond::ResponseBody};
pub use arrival::RequestArrival;
pub use gateway::{Proxy, WorkerContext};
pub use request::admit::authenticate;
pub use tables::{SharedState, Tables, TablesError, Tls};

/// The most memory of one request in bytes, beside its body and its connections. A request keeps the best failed answer, the answer that
/// it reads now, and the last block of its body.
pub const PER_REQUEST: usize = 2 * attempts::attempt::ERROR_BODY_LIMIT + crate::protocol::body::BLOCK;

/// The most connections to upstreams that one request holds at once. A failed answer that was not read to its end keeps its connection
/// during the next attempt.
pub const CONNECTIONS_PER_REQUEST: usize = 2;
