//! Configuration: TOML text to checked, plain data. Knows no feature.

mod types;

pub use types::*;
