//! The harness: a gateway on port 0, a client that sends raw bytes, an upstream that can misbehave.

pub(crate) mod client;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod gateway;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod settings;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::{io::Write, time::Duration};

/// No step of a test takes this long unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Awaits a future that must complete, and fails with its name after [`LONG`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {LONG:?}"),
    }
}

/// Prints a text also where the test runner captures the output.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
