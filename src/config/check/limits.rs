//! `[limits]`.

use std::time::Duration;

use http::Uri;

use super::{
    Check,
    secret::{SecretLookup, SecretReference},
};
use crate::config::{
    document::Path,
    raw,
    types::{RedisSettings, SharedLimits, WhenRedisIsAway},
};

const EXAMPLE: &str = "write it as \"redis://host:6379/0\", or rediss:// for TLS";

/// The promise is 50 ms: the rest is for timers and for a machine that is busy. No setting, as whoever waits longer is not served
/// better.
const PATIENCE: Duration = Duration::from_millis(40);

/// The port of Redis.
const PORT: u16 = 6379;

impl Check<'_> {
    /// None where this process counts alone.
    pub(super) fn sharing(&mut self, raw: raw::Limits) -> Option<SharedLimits> {
        let path = Path::default().key("limits");
        let password = raw.password.and_then(|secret| {
            let (env, file) = (secret.env.as_deref(), secret.file.as_deref());
            match self.secret(&SecretReference { env, file, optional: secret.optional }, &path.key("password")) {
                SecretLookup::Secret(secret) => Some(secret),
                SecretLookup::Unset | SecretLookup::Faulty => None,
            }
        });
        let Some(url) = raw.redis else {
            let only = "it is only for limits that are shared: add `redis`, or remove it";
            if password.is_some() {
                self.fault(&path.key("password"), "a `password` without `redis`", only);
            }
            if raw.replicas.is_some() {
                self.fault(&path.key("replicas"), "`replicas` without `redis`", only);
            }
            return None;
        };
        let redis = match place(&url) {
            Ok(redis) => Some(RedisSettings { password, ..redis }),
            Err((message, help)) => {
                self.fault(&path.key("redis"), message, help);
                None
            }
        };
        if raw.replicas.is_none() {
            let help = "write how many replicas there are: while Redis is away, each allows this part";
            self.fault(&path.key("redis"), "`redis` without `replicas`", help);
        }
        let fail = match raw.fail {
            raw::Fail::Share => WhenRedisIsAway::Share,
            raw::Fail::Closed => WhenRedisIsAway::Closed,
        };
        Some(SharedLimits { redis: redis?, replicas: raw.replicas?, fail, patience: PATIENCE })
    }
}

/// Reads `redis://user@host:6379/0`; what is wrong with it, and a mend.
fn place(text: &str) -> Result<RedisSettings, (&'static str, &'static str)> {
    let tls = match text.split_once("://") {
        Some(("redis", _)) => false,
        Some(("rediss", _)) => true,
        _ => return Err(("`redis` is not the URL of a Redis", EXAMPLE)),
    };
    let uri: Uri = text.parse().map_err(|_| ("`redis` is not a URL", EXAMPLE))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
    if user.is_some_and(|user| user.contains(':')) {
        let help = "move it to `password = { env = \"TIDEGATE_REDIS_PASSWORD\" }`: files are read by many";
        return Err(("`redis` holds a password", help));
    }
    let host = uri.host().unwrap_or_default();
    let port = match place.strip_prefix(host) {
        Some("") => Some(PORT),
        Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0),
        None => None,
    };
    let port = port.ok_or(("`redis` names no port that there is", EXAMPLE))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(("`redis` names no host", EXAMPLE));
    }
    let database = match uri.path().trim_start_matches('/') {
        "" => Ok(0),
        number => number.parse().map_err(|_| ("`redis` ends in what is no number of a database", EXAMPLE)),
    }?;
    // http::Uri drops a fragment without a word.
    if text.contains(['?', '#']) {
        return Err(("`redis` holds a query or a fragment", EXAMPLE));
    }
    Ok(RedisSettings { tls, host: host.into(), port, database, user: user.map(Into::into), password: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("rediss://me@h.internal:1234/7", "rediss://me@h.internal:1234/7"),
            ("redis://[::1]:6380/", "redis://[::1]:6380/0"),
            ("redis://127.0.0.1:1/15", "redis://127.0.0.1:1/15"),
        ] {
            assert_eq!(place(text).unwrap().to_string(), shown);
        }
        for text in [
            "h:6379",
            "http://h",
            "redis://",
            "redis://:6379",
            "redis://h:0",
            "redis://h:66000",
            "redis://h/x",
            "redis://h/0?x=1",
            "redis://:pw@h",
            "redis://u:pw@h",
            "redis://h#insecure",
        ] {
            assert!(place(text).is_err(), "{text}");
        }
        assert_eq!(&*place("redis://[::1]:1").unwrap().host, "::1");
    }
}
