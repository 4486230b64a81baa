//! What outlives the process: the journal, which is files, the database that it feeds, and Redis, where replicas count
//! together.

pub mod files;
pub mod journal;
pub mod redis;
pub mod sql;
