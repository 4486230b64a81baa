//! Where a request goes: the account that stores its state, or else the candidates of its model.

pub(in crate::proxy) mod candidates;
pub(in crate::proxy) mod destination;
mod object_route;
mod references;
