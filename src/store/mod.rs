//! What outlives the process: the journal, which is files, and the database that it feeds.

pub mod files;
pub mod journal;
pub mod sql;
