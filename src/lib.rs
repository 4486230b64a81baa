//! Tidegate: an OpenAI-compatible reverse proxy gateway.
//!
//! A module imports only from rows below its own, never sideways in rows 1 to 3; `tests/tidy.rs` holds this.
//!
//! ```text
//! 7  main  cli  simulator
//! 6  app
//! 5  api | server
//! 4  proxy
//! 3  affinity | auth | limits | billing | routing | upstream | metering
//! 2  store | budgets | protocol | metrics
//! 1  concurrent | config
//! 0  domain
//! ```
//!
//! The path of a request: [`server`] accepts, [`api`] gives it an id and calls [`proxy::forward`], which
//! authenticates ([`auth`]), reads and scans the body ([`protocol`]), resolves the model ([`routing`]), sends it
//! ([`upstream`]) and hangs an observer on the answer, whose end settles the record ([`metering`]).

pub mod affinity;
pub mod api;
pub mod app;
pub mod auth;
pub mod billing;
pub mod budgets;
pub mod cli;
pub mod concurrent;
pub mod config;
pub mod domain;
pub mod limits;
pub mod metering;
pub mod metrics;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod server;
pub mod simulator;
pub mod store;
pub mod upstream;
