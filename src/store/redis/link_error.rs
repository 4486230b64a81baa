//! What can go wrong between Redis and a process of Tidegate.

use std::time::Duration;

/// What went wrong between Redis and us.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It said so, or the connection did.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// It says nothing.
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
    /// It answers, but later than requests can wait.
    #[error("it took {0:?} to answer")]
    Slow(Duration),
    /// It was emptied, or is another one.
    #[error("it forgot what was in it")]
    Forgot,
    /// Its answer is none of the script's.
    #[error("it answers something else than was asked")]
    Odd,
    /// A Sentinel knows no master of this name.
    #[error("no master is called {0} there")]
    Unnamed(String),
    /// What a Sentinel named is no master, or not yet.
    #[error("{0}, which a Sentinel names, is no master")]
    NoMaster(String),
    /// A Sentinel named none.
    #[error("the Sentinel {sentinel} names no master: {error}")]
    Sentinel {
        /// Its address.
        sentinel: String,
        /// What it said.
        error: Box<LinkError>,
    },
}

impl LinkError {
    /// Whether its connection is given up. Also where it answers: it may be no master any more, and its name lead elsewhere.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Slow(_) | Self::Forgot)
    }
}
