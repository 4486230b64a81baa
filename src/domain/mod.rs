//! Plain data types that all other modules share. This module imports no other module of the crate and does no I/O.

pub mod affinity;
pub mod alert;
pub mod clock;
pub mod endpoint;
pub mod health_state;
pub mod id;
pub mod key;
pub mod ledger;
pub mod model_name;
pub mod money;
pub mod origin;
pub mod outcome;
pub mod price;
pub mod problem;
pub mod random;
pub mod spending;
pub mod usage;
