//! The SQL store: SQLite in one file of the data folder, or PostgreSQL, which several replicas share. Never used on a worker's
//! thread.
//!
//! Both databases share the text of each statement. `on!` (in `database`) runs the same lines over either connection.
//! `dialect` has the differences.

mod bounds;
mod database;
mod dialect;
mod error;
mod insert;
mod keep;
mod keys;
mod ledger;
mod location;
mod pending;
mod rows;
mod statement;
mod usage;

use bounds::{BATCH, LONG, count, integer, within};
use database::on;

pub use database::Database;
pub use error::DatabaseError;
pub use keys::{AuditEntry, ChangeAuthor, KeyChange, KeyError, Revision};
pub use location::{DatabaseLocation, FILE};
pub use pending::{PendingRow, SettledRow};
pub use rows::{Cell, SqlRow, columns};
pub use statement::KeyStatement;
pub use usage::{GroupBy, UsageQuery, UsageTotal};

pub(super) use bounds::BUSY_FOR;
pub(super) use error::is_busy;
