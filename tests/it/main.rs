//! Integration tests: a real gateway on loopback, upstreams that are scripted byte by byte, raw clients.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stderr, reason = "figures for whoever runs a test with --nocapture")]

mod support;

mod affinity;
mod background;
mod billing;
mod bodies;
mod body_budget;
mod cancel;
mod charges;
mod cli;
mod connections;
mod deadlines;
mod docs;
mod drain;
mod echoes;
mod errors;
mod explain;
mod failover;
mod framing;
mod half_close;
mod headers;
mod health;
mod http2;
mod keys;
mod latency;
mod learning;
mod ledger;
mod limits;
mod memory;
mod models;
mod network;
mod operators;
mod origins;
mod postgres;
mod redis;
mod reload;
mod request_head;
mod shutdown;
mod sockets;
mod standby;
mod store;
mod store_files;
mod streams;
mod surface;
mod tls;
mod upgrade;
