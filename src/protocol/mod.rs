//! Facts of the OpenAI wire: what is read out of bodies and streams that pass, and how the one edit is made.
//! Pure: no I/O, no clock, no http server. Bytes come in as pieces; nothing here joins, delays or owns them.

pub mod body;
pub mod coding;
pub mod error_body;
pub mod json;
pub mod mask;
pub mod observe;
pub mod references;
pub mod sse;
pub mod tokens;
