//! The request of a client: admitted by its key and limits, then read to its end.

pub(in crate::proxy) mod admit;
mod body_reader;
mod head;
pub(in crate::proxy) mod receive;
mod yield_to_runtime;
