//! Where a request comes from, also through proxies of the operator.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the peer's, or where that is a trusted proxy, the last one in `X-Forwarded-For` that is none. Each
/// proxy appends whom it serves, so whatever stands before that the client may have written itself. Where something there is
/// no address, nobody knows what it was: then it is the peer's.
pub(super) fn client(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    if !is_trusted(peer) {
        return peer;
    }
    let mut client = peer;
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else { return peer };
        for part in text.rsplit(',') {
            let Some(address) = address(part.trim()) else { return peer };
            client = address;
            if !is_trusted(address) {
                return client;
            }
        }
    }
    client
}

/// `192.0.2.7`, `192.0.2.7:1234`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:1234`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let port = port.strip_prefix(':');
            port.is_none_or(|port| port.parse::<u16>().is_ok()).then_some(address)?
        }
        None => match text.split_once(':') {
            Some((address, port)) if port.parse::<u16>().is_ok() && address.contains('.') => address,
            _ => text,
        },
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn from(peer: &str, values: &[&str]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let values = values.iter().map(|value| (FORWARDED_FOR.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
        client(peer.parse().unwrap(), &trusted, &values.collect()).to_string()
    }

    #[test]
    fn a_stranger_is_where_it_comes_from_whatever_it_says() {
        assert_eq!(from("192.0.2.1", &["10.9.9.9"]), "192.0.2.1");
        assert_eq!(from("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn through_trusted_proxies_it_is_the_last_one_that_is_none() {
        for (values, client) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.7"], "192.0.2.7"),
            (&["203.0.113.9, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            (&["203.0.113.9", "192.0.2.7,10.0.0.2"], "192.0.2.7"),
            (&["192.0.2.7:1234"], "192.0.2.7"),
            (&["[2001:db8::1]:443 "], "2001:db8::1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["10.0.0.3"], "10.0.0.3"),
        ] {
            assert_eq!(from("10.0.0.1", values), client, "{values:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_not_believed() {
        for value in ["unknown", "192.0.2.7, unknown", "192.0.2.7, ", "_hidden, 10.0.0.2", "[2001:db8::1", "1.2.3.4:x"]
        {
            assert_eq!(from("10.0.0.1", &[value]), "10.0.0.1", "{value}");
        }
        // Behind the client's own words stands what the proxy wrote.
        assert_eq!(from("10.0.0.1", &["unknown, 192.0.2.7"]), "192.0.2.7");
    }
}
