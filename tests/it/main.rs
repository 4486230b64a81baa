//! Integration tests: a real gateway on loopback, upstreams that are scripted byte by byte, raw clients.

mod support;

mod bodies;
mod cancel;
mod deadlines;
mod errors;
mod headers;
mod models;
mod shutdown;
mod streams;
