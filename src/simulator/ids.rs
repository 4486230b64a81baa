//! Ids that look like the providers': `resp_0bc0cffd983db63400693fdeadd58481a2aa83ef0faac36caf`.

use std::fmt::Write as _;

use crate::domain::clock::Clock;
use crate::domain::random::{NoRandomBytes, RandomBytes};

/// Creates the ids of one answer. Each consists of a common part, the time and a part of its own.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    random: [u8; 19],
    pub(super) created: u64,
    made: u16,
}

impl Ids {
    pub(super) fn new(random_bytes: RandomBytes, clock: Clock) -> Result<Self, NoRandomBytes> {
        Ok(Self { random: random_bytes.bytes()?, created: clock.since_epoch().as_secs(), made: 0 })
    }

    /// Another id: 50 hexadecimal digits after the prefix.
    pub(super) fn next(&mut self, prefix: &str) -> String {
        self.made = self.made.wrapping_add(1);
        let (common, own) = self.random.split_at(9);
        let mut id = format!("{prefix}{}{:08x}{}", hex(common), self.created, hex(own));
        // The last two bytes are a counter, so that all ids of an answer differ: an input may have thousands of items.
        let _infallible = write!(id, "{:04x}", self.made);
        id
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
