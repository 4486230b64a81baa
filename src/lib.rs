//! Tidegate.
pub mod config;
pub mod domain;
