//! `[affinity]`.

use std::time::Duration;

use super::Check;
use crate::config::{
    document::Path,
    raw,
    types::{AffinitySettings, UnknownIds},
};

const DAY: u64 = 86_400;

impl Check<'_> {
    /// Checks the table `[affinity]` of the configuration. `has_redis` says whether `[limits]` names a Redis.
    pub(super) fn affinity(&mut self, raw: &raw::Affinity, has_redis: bool) -> AffinitySettings {
        if raw.shared == Some(true) && !has_redis {
            self.fault(
                &Path::default().key("affinity").key("shared"),
                "`shared` is true, but [limits] has no `redis`",
                "add `redis` and `replicas` to [limits], or remove `shared`",
            );
        }
        AffinitySettings {
            ttl: Duration::from_secs(raw.ttl_days.saturating_mul(DAY)),
            max_entries: raw.max_entries,
            shared: raw.shared.unwrap_or(has_redis),
            unknown_ids: raw.unknown_ids.map(|known| match known {
                raw::UnknownIds::Refuse => UnknownIds::Refuse,
                raw::UnknownIds::Route => UnknownIds::Route,
            }),
        }
    }
}
