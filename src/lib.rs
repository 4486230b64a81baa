//! Tidegate.
pub mod config;
pub mod domain;
pub mod simulator;
