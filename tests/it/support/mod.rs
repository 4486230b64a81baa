//! The harness: a gateway on port 0, a client that speaks raw bytes, an upstream that can misbehave.

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

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Awaits what must come; fails with its name where it does not.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {LONG:?}"),
    }
}

/// Says it also where the output of tests is caught.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
