//! Errors between Tidegate and Redis.

use std::time::Duration;

/// Why Redis, a Redis Sentinel, or the connection to one of them failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Redis or the connection reported an error.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// Redis does not answer.
    #[error("Redis did not answer within {0:?}")]
    Silent(Duration),
    /// Redis answers later than requests can wait.
    #[error("Redis took {0:?} to answer, which is longer than a request can wait")]
    Slow(Duration),
    /// Redis was emptied, or is another server.
    #[error("Redis lost the data of Tidegate, or is now another server")]
    Forgot,
    /// The answer does not have the form of the script's answers.
    #[error("the answer of Redis does not have the form that Tidegate's script gives")]
    Odd,
    /// A Sentinel knows no master of this name.
    #[error("the Redis Sentinels know no master named {0}")]
    Unnamed(String),
    /// The server that a Sentinel named is not the master, or not yet.
    #[error("the Redis server {0} is not a master, although a Sentinel names this server as the master")]
    NoMaster(String),
    /// Sentinels name another master than that of the connection.
    #[error("the Redis server {0} is no longer the master: the Sentinels name another server")]
    Replaced(String),
    /// A Sentinel named no master.
    #[error("the Redis Sentinel {sentinel} names no master: {error}")]
    Sentinel {
        /// Address of the Sentinel.
        sentinel: String,
        /// The error of the Sentinel.
        error: Box<LinkError>,
    },
}
