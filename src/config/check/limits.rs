//! `[limits]`.

use std::time::Duration;

use secrecy::SecretString;

use super::{
    Check, redis,
    secret::{SecretLookup, SecretReference},
};
use crate::config::{
    document::Path,
    raw,
    types::{RedisAt, RedisSettings, SecretsNeeded, SharedLimits, WhenRedisIsAway},
};

/// How long a request waits for Redis, in all. There is no setting, because a longer wait does not serve a request better.
const PATIENCE: Duration = Duration::from_millis(40);

impl Check<'_> {
    /// Checks the table `[limits]` of the configuration. Returns none if this process counts limits and budgets alone.
    pub(super) fn sharing(&mut self, raw: raw::Limits) -> Option<SharedLimits> {
        let path = Path::default().key("limits");
        let password = raw.password.and_then(|secret| self.limits_secret(&secret, &path.key("password")));
        let of_sentinels =
            raw.sentinel_password.and_then(|secret| self.limits_secret(&secret, &path.key("sentinel_password")));
        let Some(url) = raw.redis else {
            for (name, is_there) in [
                ("password", password.is_some()),
                ("sentinel_password", of_sentinels.is_some()),
                ("ca_file", raw.ca_file.is_some()),
                ("replicas", raw.replicas.is_some()),
            ] {
                if is_there {
                    let help =
                        "this setting is only for limits that replicas share: add `redis`, or remove this setting";
                    self.fault(&path.key(name), format!("`{name}` without `redis`"), help);
                }
            }
            return None;
        };
        let redis = match redis::place(&url) {
            Ok(redis) => Some(RedisSettings { password, ..redis }),
            Err((message, help)) => {
                self.fault(&path.key("redis"), message, help);
                None
            }
        };
        let redis = redis.map(|redis| {
            let redis = self.with_sentinel_password(redis, of_sentinels, &path);
            self.with_ca(redis, raw.ca_file.as_deref(), &path)
        });
        if raw.replicas.is_none() {
            let help = "write the number of replicas as `replicas`: while Redis is away, each replica allows its share of every limit";
            self.fault(&path.key("redis"), "`redis` without `replicas`", help);
        }
        let fail = match raw.fail {
            raw::Fail::Share => WhenRedisIsAway::Share,
            raw::Fail::Closed => WhenRedisIsAway::Closed,
        };
        Some(SharedLimits { redis: redis?, replicas: raw.replicas?, fail, patience: PATIENCE })
    }

    fn limits_secret(&mut self, secret: &raw::Secret, path: &Path) -> Option<SecretString> {
        let (env, file) = (secret.env.as_deref(), secret.file.as_deref());
        match self.secret(&SecretReference { env, file, optional: secret.optional }, path) {
            SecretLookup::Secret(secret) => Some(secret),
            SecretLookup::Unset | SecretLookup::Faulty => None,
        }
    }

    fn with_sentinel_password(
        &mut self,
        mut redis: RedisSettings,
        given: Option<SecretString>,
        path: &Path,
    ) -> RedisSettings {
        match &mut redis.at {
            RedisAt::Sentinels { password, .. } => *password = given,
            RedisAt::Host { .. } | RedisAt::Socket(_) if given.is_some() => {
                let help = "`sentinel_password` is for a URL that begins with redis+sentinel://; the password of Redis is `password`";
                self.fault(&path.key("sentinel_password"), "`sentinel_password` without a Sentinel in `redis`", help);
            }
            RedisAt::Host { .. } | RedisAt::Socket(_) => {}
        }
        redis
    }

    fn with_ca(&mut self, redis: RedisSettings, file: Option<&str>, path: &Path) -> RedisSettings {
        let Some(file) = file else { return redis };
        if !redis.is_tls() {
            let help = "begin `redis` with rediss:// or rediss+sentinel://, or remove `ca_file`";
            self.fault(&path.key("ca_file"), "`ca_file` for a Redis without TLS", help);
            return redis;
        }
        if self.secrets != SecretsNeeded::Read {
            return redis;
        }
        RedisSettings { ca_pem: self.ca_file(file, &path.key("ca_file")), ..redis }
    }
}
