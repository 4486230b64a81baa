//! What outlives the process: the journal, which is files, the database that it feeds, where state came from, and Redis, where
//! replicas count together.

pub mod files;
pub mod journal;
pub mod origins;
pub mod redis;
pub mod sql;
