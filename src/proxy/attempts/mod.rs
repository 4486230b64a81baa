//! Attempts at upstreams, until one answers.

pub(in crate::proxy) mod attempt;
pub(in crate::proxy) mod failover;
pub(in crate::proxy) mod outgoing;
