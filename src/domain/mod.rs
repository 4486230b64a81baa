//! Plain data that every other part speaks in. Imports nothing of the crate, does no I/O.

pub mod affinity;
pub mod alert;
pub mod budget;
pub mod chance;
pub mod clock;
pub mod departure;
pub mod endpoint;
pub mod id;
pub mod key;
pub mod ledger;
pub mod model_name;
pub mod money;
pub mod origin;
pub mod outcome;
pub mod price;
pub mod problem;
pub mod sharing;
pub mod spending;
pub mod standing;
pub mod usage;
