//! The affinity store, on a thread of its own. A connection on a worker would stop whenever that worker is busy. Here a hanging
//! store delays only the requests that wait for it.
//!
//! Two tasks have a connection each, so that reads never wait for writes. Each task notices a slow store by itself. Workers
//! then send no lookups (`AffinityStatus::read_fails`), or no longer wait for writes (`AffinityStatus::write_fails`). The task
//! retries until the store answers in time.

mod client;
mod reader;
mod thread;
mod writer;

pub use thread::AffinityStoreThread;
