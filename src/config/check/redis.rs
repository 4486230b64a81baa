//! `[limits] redis`: the URL of a Redis, of a Unix socket, or of Sentinels.

use http::uri::Authority;

use super::url::UrlError;
use crate::config::types::{RedisAt, RedisHost, RedisSettings};

const EXAMPLE: &str = "write it as \"redis://host:6379/0\", \"rediss://host:6379/0\" for TLS, \"unix:///run/redis/redis.sock?db=0\" \
                       for a Unix socket, or \"redis+sentinel://host1:26379,host2:26379/mymaster/0\" for Sentinel";

const SENTINELS: &str = "write it as \"redis+sentinel://host1:26379,host2:26379/mymaster/0\": the Sentinels, the name that they have for \
                         the master, and the number of the database";

const SOCKET: &str = "write it as \"unix:///run/redis/redis.sock?db=0\"";

const PASSWORD: &str = "move it to `password = { env = \"TIDEGATE_REDIS_PASSWORD\" }`: files are read by many";

/// Default ports of Redis and of Sentinel.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Parses the URL of a Redis: a host, a Unix socket or Sentinels. The error says what is wrong and how to correct the URL.
pub(super) fn place(text: &str) -> Result<RedisSettings, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(("`redis` is not the URL of a Redis", EXAMPLE))?;
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(("`redis` contains a character that a URL must not have", EXAMPLE));
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(before, path)| (before, Some(path)));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if user.is_some_and(|user| user.contains(':')) {
        return Err(("`redis` holds a password", PASSWORD));
    }
    let user = user.filter(|user| !user.is_empty());
    if scheme == "unix" || scheme == "redis+unix" {
        return socket(user, hosts, path, query);
    }
    if query.is_some() || text.contains('#') {
        return Err(("`redis` holds a query or a fragment", EXAMPLE));
    }
    let path = path.unwrap_or_default();
    let (at, number) = match scheme {
        "redis" | "rediss" => {
            if hosts.contains(',') {
                return Err(("`redis` names several hosts", SENTINELS));
            }
            (RedisAt::Host { tls: scheme == "rediss", host: host(hosts, PORT)? }, path)
        }
        "redis+sentinel" | "rediss+sentinel" => {
            let sentinels: Vec<_> = hosts.split(',').map(|text| host(text, SENTINEL_PORT)).collect::<Result<_, _>>()?;
            if sentinels.iter().enumerate().any(|(nth, one)| sentinels.iter().take(nth).any(|other| other == one)) {
                return Err(("`redis` names a Sentinel twice", SENTINELS));
            }
            let (master, number) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() || !master.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                return Err(("`redis` does not say which master is meant", SENTINELS));
            }
            // A URL with only a number lacks the name of the master.
            if number.is_empty() && master.bytes().all(|b| b.is_ascii_digit()) {
                return Err(("`redis` has a number where the name of the master is expected", SENTINELS));
            }
            let tls = scheme == "rediss+sentinel";
            (RedisAt::Sentinels { tls, sentinels, master: master.into(), password: None }, number)
        }
        _ => return Err(("`redis` is not the URL of a Redis", EXAMPLE)),
    };
    Ok(RedisSettings { at, database: database(number)?, user: user.map(Into::into), password: None, ca_pem: None })
}

/// Parses the part after `unix://`.
fn socket(user: Option<&str>, hosts: &str, path: Option<&str>, query: Option<&str>) -> Result<RedisSettings, UrlError> {
    if !hosts.is_empty() {
        return Err(("the path of the Unix socket in `redis` does not begin with /", SOCKET));
    }
    let path = path.filter(|path| !path.is_empty() && !path.ends_with('/') && !path.contains(['#', '%']));
    let path = format!("/{}", path.ok_or(("`redis` does not name the file of a Unix socket", SOCKET))?);
    let (mut number, mut user) = ("", user);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("db", value) => number = value,
            ("user" | "username", value) if user.is_none() && !value.is_empty() => user = Some(value),
            ("pass" | "password", _) => return Err(("`redis` holds a password", PASSWORD)),
            _ => return Err(("the query of `redis` holds something else than `db` and one `user`", SOCKET)),
        }
    }
    let at = RedisAt::Socket(std::path::PathBuf::from(path).into());
    Ok(RedisSettings { at, database: database(number)?, user: user.map(Into::into), password: None, ca_pem: None })
}

fn database(number: &str) -> Result<u16, UrlError> {
    match number {
        "" => Ok(0),
        number if number.bytes().all(|b| b.is_ascii_digit()) => {
            number.parse().map_err(|_| ("`redis` names no number of a database that there is", EXAMPLE))
        }
        _ => Err(("`redis` ends in what is no number of a database", EXAMPLE)),
    }
}

fn host(text: &str, default: u16) -> Result<RedisHost, UrlError> {
    let authority: Authority = text.parse().map_err(|_| ("`redis` names no host, or one that cannot be", EXAMPLE))?;
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => Some(default),
        Some(port) => port.strip_prefix(':').filter(|port| !port.starts_with('+')).and_then(|port| port.parse().ok()),
        None => None,
    };
    let port = port.filter(|port| *port > 0).ok_or(("`redis` names no port that there is", EXAMPLE))?;
    let name = host.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() {
        return Err(("`redis` names no host", EXAMPLE));
    }
    Ok(RedisHost { name: name.into(), port })
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
            ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
            ("redis+unix:///run/redis.sock?db=3&user=me", "unix://me@/run/redis.sock?db=3"),
            ("unix://me@/run/redis.sock?db=3", "unix://me@/run/redis.sock?db=3"),
            ("redis+sentinel://a,b:1/mymaster", "redis+sentinel://a:26379,b:1/mymaster/0"),
            ("rediss+sentinel://me@[::1],b/my.master-1/2", "rediss+sentinel://me@[::1]:26379,b:26379/my.master-1/2"),
        ] {
            assert_eq!(place(text).unwrap().to_string(), shown);
        }
        let RedisAt::Host { host, .. } = place("redis://[::1]:1").unwrap().at else { panic!() };
        assert_eq!(&*host.name, "::1");
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for (text, what) in [
            ("h:6379", "not the URL"),
            ("http://h", "not the URL"),
            ("redis-sentinel://h/m", "not the URL"),
            ("redis://", "no host"),
            ("redis://:6379", "no host"),
            ("redis://h:0", "no port"),
            ("redis://h:66000", "no port"),
            ("redis://h:+1", "no port"),
            ("redis://h:abc", "no port"),
            ("redis://a:1,b:2", "several hosts"),
            ("redis://h/x", "no number"),
            ("redis://h/+1", "no number"),
            ("redis://h/70000", "no number"),
            ("redis://h/0?x=1", "a query"),
            ("redis://h /0", "a URL must not have"),
            ("redis://:pw@h", "a password"),
            ("redis://u:pw@h", "a password"),
            ("redis://h#insecure", ""),
            ("unix://run/redis.sock", "begin with /"),
            ("unix://", "the file"),
            ("unix:///", "the file"),
            ("unix:///run/", "the file"),
            ("unix:///run/redis.sock?db=x", "no number"),
            ("unix:///run/redis.sock?pass=x", "a password"),
            ("unix:///run/redis.sock?x=1", "the query"),
            ("unix://a@/run/redis.sock?user=b", "the query"),
            ("unix://a:b@/run/redis.sock", "a password"),
            ("redis+sentinel://a,b", "which master"),
            ("redis+sentinel://a,b/", "which master"),
            ("redis+sentinel://a,b/0", "a number"),
            ("redis+sentinel://a,b/my master/0", "a URL must not have"),
            ("redis+sentinel://a,b/m%20m/0", "which master"),
            ("redis+sentinel://a,b/m/x", "no number"),
            ("redis+sentinel://a,b/m/0/1", "no number"),
            ("redis+sentinel://a,,b/m/0", "no host"),
            ("redis+sentinel://a,a:26379/m/0", "twice"),
            ("redis+sentinel://a:0,b/m/0", "no port"),
            ("redis+sentinel://u:pw@a,b/m/0", "a password"),
            ("redis+sentinel://a,b/m?db=0", "a query"),
        ] {
            let (wrong, _) = place(text).unwrap_err();
            assert!(wrong.contains(what), "{text}: {wrong}");
        }
    }
}
