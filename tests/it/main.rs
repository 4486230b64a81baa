//! Integration tests: a real gateway on loopback, upstreams that are scripted byte by byte, raw clients.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stderr, reason = "figures for whoever runs a test with --nocapture")]

mod support;

mod affinity;
mod background;
mod billing;
mod bodies;
mod body_memory;
mod cancel;
mod charges;
mod cli;
mod client_gone_drain;
mod connections;
mod credential_echo;
mod deadlines;
mod docs;
mod endpoints;
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
mod ledger;
mod limits;
mod memory;
mod models;
mod network;
mod operators;
mod origins;
mod postgres;
mod postgres_failover;
mod recorded_ids;
mod redis;
mod reload;
mod request_head;
mod shutdown;
mod store;
mod store_files;
mod streams;
mod tls;
mod unix_sockets;
mod upgrade;
