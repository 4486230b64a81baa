//! The wire formats of the OpenAI API: reads bodies and streams while they pass, masks credentials in them, and edits request bodies.
//!
//! Pure: no I/O, no clock, no HTTP server. Bytes come in as pieces. Code that only reads neither changes nor delays them.

pub mod body;
pub mod coding;
pub mod error_body;
pub mod json;
pub mod mask;
pub mod observe;
pub mod references;
pub mod sse;
pub mod tokens;
