//! Parser for the URL of a PostgreSQL database. The checks of the configuration and the connection code both use this parser.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why the URL of a PostgreSQL database cannot be used, and what to write instead. Neither text repeats a part of the URL,
/// because a secret may be in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {help}")]
pub struct WrongUrl {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

const EXAMPLE: &str = "write it as \"postgres://user@host:5432/database\"";

const SEVERAL: &str = "several servers are written \"postgres://user@first:5432,second:5432/database\"";

/// Parameters that are allowed in the query of a URL.
const PARAMETERS: [&str; 7] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "options", "statement-cache-capacity"];

/// Parses the URL of a PostgreSQL database and returns its servers in the order of the URL. If there are several, one of them is
/// the primary.
///
/// # Errors
/// When the URL cannot be used.
pub fn servers(text: &str) -> Result<Vec<PgConnectOptions>, WrongUrl> {
    let wrong = |what: &str, help: &str| WrongUrl { what: what.to_owned(), help: help.to_owned() };
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = rest else {
        let help = format!("{EXAMPLE}; without `url`, SQLite in the data folder is used");
        return Err(wrong("`url` is not of a PostgreSQL database", &help));
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        let help = "move it to `password = { env = \"TIDEGATE_STORE_PASSWORD\" }`: files are read by many";
        return Err(wrong("`url` holds a password", help));
    }
    if text.contains('#') {
        return Err(wrong("`url` holds a fragment", EXAMPLE));
    }
    let (database, query) = database.split_once('?').unwrap_or((database, ""));
    // Compare the names as written, without decoding: an encoded name is not in the list, so no password can hide in one.
    let pairs =
        || query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    if pairs().any(|(name, _)| !PARAMETERS.contains(&name)) {
        let help = format!("it may hold {}; a password belongs into `password`", PARAMETERS.join(", "));
        return Err(wrong("the query of `url` has a parameter that is not allowed", &help));
    }
    let elsewhere = pairs().any(|(name, value)| name == "host" && !value.is_empty());
    let missing = [(user, "user"), (if elsewhere { "query" } else { hosts }, "host"), (database, "database")];
    if let Some((_, part)) = missing.iter().find(|(part, _)| part.is_empty()) {
        return Err(wrong(&format!("`url` names no {part}"), EXAMPLE));
    }
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(wrong("`url` contains a character that a URL must not have", EXAMPLE));
    }
    for (name, value) in pairs() {
        match name {
            "sslmode" if PgSslMode::from_str(value).is_err() => {
                let help = "it is one of disable, allow, prefer, require, verify-ca, verify-full";
                return Err(wrong("`sslmode` of `url` is not known", help));
            }
            "statement-cache-capacity" if value.parse::<u16>().is_err() => {
                return Err(wrong("`statement-cache-capacity` of `url` is no number", "write for example 100"));
            }
            "host" if value.contains(',') => return Err(wrong("`host` of `url` names several servers", SEVERAL)),
            _ => {}
        }
    }
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let server = |host: &str| {
        let (name, port) = match host.rfind(':') {
            // Colons inside brackets belong to an IPv6 address.
            Some(colon) if !host.ends_with(']') => (host.get(..colon), host.get(colon + 1..)),
            _ => (Some(host), None),
        };
        let is_port = |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
        if port.is_some_and(|port| !is_port(port)) {
            return Err(wrong("a port of `url` is no number from 1 to 65535", EXAMPLE));
        }
        if name.is_none_or(str::is_empty) && !elsewhere {
            return Err(wrong("`url` names an empty host", SEVERAL));
        }
        // `host` in the query takes precedence over the host of the URL. A port without a host is the port of that socket.
        let host = if name.is_none_or(str::is_empty) { format!("localhost{host}") } else { host.to_owned() };
        PgConnectOptions::from_str(&format!("postgres://{user}@{host}/{database}{query}"))
            .map_err(|_| wrong("`url` cannot be read", EXAMPLE))
    };
    hosts.split(',').map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_of_a_url_is_found_and_what_cannot_be_parsed_is_refused() {
        for (url, expected) in [
            ("postgres://u@h/d", &[("h", 5432)][..]),
            ("postgresql://u@h:1/d", &[("h", 1)]),
            ("postgres://u@h1:5432,h2:5433/d?sslmode=require", &[("h1", 5432), ("h2", 5433)]),
            ("postgres://u@h1,h2,h3:7/d", &[("h1", 5432), ("h2", 5432), ("h3", 7)]),
            ("postgres://u@10.0.0.1,[::1]:7,[::2]/d", &[("10.0.0.1", 5432), ("[::1]", 7), ("[::2]", 5432)]),
            ("postgres://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem&options=-c%20a=b", &[("h", 5432)]),
        ] {
            let found = servers(url).unwrap();
            let found: Vec<_> = found.iter().map(|server| (server.get_host(), server.get_port())).collect();
            assert_eq!(found, expected, "{url}");
        }
        for url in [
            "postgres://u@%2Frun%2Fpostgresql/d",
            "postgres://u@/d?host=/run/postgresql",
            "postgres://u@h/d?host=/run/postgresql",
            "postgres://u@:5432/d?host=/run/postgresql",
        ] {
            let socket = servers(url).unwrap()[0].get_socket().cloned();
            assert_eq!(socket.as_deref(), Some("/run/postgresql".as_ref()), "{url}");
        }
        for (url, what) in [
            ("mysql://u@h/d", "not of a PostgreSQL database"),
            ("postgres://u:p@h/d", "holds a password"),
            ("postgres://u@h/d#x", "fragment"),
            ("postgres://h/d", "no user"),
            ("postgres://u@/d", "no host"),
            ("postgres://u@h", "no database"),
            ("postgres://u@h:/d", "a port"),
            ("postgres://u@h:abc/d", "a port"),
            ("postgres://u@h:0/d", "a port"),
            ("postgres://u@h:+1/d", "a port"),
            ("postgres://u@h:65536/d", "a port"),
            ("postgres://u@h1:5432,h2:abc/d", "a port"),
            ("postgres://u@h1:5432:5433/d", "cannot be read"),
            ("postgres://u@h1,,h2/d", "empty host"),
            ("postgres://u@h1,/d", "empty host"),
            ("postgres://u@:5432/d", "empty host"),
            ("postgres://u@[::1/d", "cannot be read"),
            ("postgres://u@h1|h2/d", "cannot be read"),
            ("postgres://u@h/d?sslmode=nonsense", "sslmode"),
            ("postgres://u@h/d?sslmode=", "sslmode"),
            ("postgres://u@h/d?statement-cache-capacity=many", "statement-cache-capacity"),
            ("postgres://u@h/d?host=h1,h2", "several servers"),
            ("postgres://u@h/d?password=p", "not allowed"),
            ("postgres://u@h /d", "a URL must not have"),
        ] {
            let wrong = servers(url).unwrap_err();
            assert!(wrong.what.contains(what), "{url}: {wrong}");
        }
    }
}
