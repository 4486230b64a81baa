//! Limits and budgets that replicas share, in Redis or Valkey. One script decides on everything that a request takes, and one thread talks
//! to Redis for all workers.

mod client;
mod command;
mod connect;
mod link;
mod link_error;
mod sentinel;
mod worker;

pub use client::Redis;
pub use command::{Command, LimitItem, Operation, SharedBudget, SpendSource, TakeResult, name};
pub(super) use connect::{Connected, Connector};
pub use link::{HELD, Link};
pub use link_error::LinkError;
pub(super) use sentinel::Switch;
pub use worker::Replica;
