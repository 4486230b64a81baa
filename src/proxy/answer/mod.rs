//! The answer of an upstream on its way to the client.

pub(in crate::proxy) mod affinity_recorder;
pub(in crate::proxy) mod drain;
mod observer;
mod relay;
pub(in crate::proxy) mod reply;
pub(in crate::proxy) mod respond;
mod silence;
pub(in crate::proxy) mod upstream_body;
