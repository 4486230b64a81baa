//! The affinity store: the origin of each reference, in SQLite (one file of the data folder) or in Redis, which several replicas
//! share. Never used on a worker's thread.
//!
//! A reference is stored as a keyed hash. The hash key is 256 random bits, generated once and stored in the same store. So no id
//! can be read from the store, and rows of one store are useless in another. A person with the whole store can still check
//! whether it has an id that the person knows.
//!
//! To add a backend, add a file with the same five functions and a variant of [`OriginStoreLocation`]. Each function of [`OriginStore`]
//! gets a match arm, and the test suite for all backends (`tests/it/origins.rs`) gets a line.

mod entry;
mod redis;
mod sqlite;
mod store;

pub use entry::{EntryLifetime, FILE, HashSecret, OriginStoreLocation, StoreError, StoredOrigin};
pub use store::OriginStore;
