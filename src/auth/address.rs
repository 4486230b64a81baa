//! Client addresses, also behind proxies of the operator.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Returns the IP address of the client. This is the address of the peer. If the peer is a trusted proxy, it is the last address
/// in `X-Forwarded-For` that is not a trusted proxy. Each proxy appends the address of its own client, so the client may have
/// forged every address before that one. If `X-Forwarded-For` has an invalid address there, the address of the peer is used.
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

/// Parses an address with or without a port: `192.0.2.7`, `192.0.2.7:1234`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:1234`.
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
    fn the_header_of_an_untrusted_peer_is_ignored() {
        assert_eq!(from("192.0.2.1", &["10.9.9.9"]), "192.0.2.1");
        assert_eq!(from("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn behind_trusted_proxies_the_last_untrusted_address_counts() {
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
    fn with_an_invalid_address_the_peer_counts() {
        for value in ["unknown", "192.0.2.7, unknown", "192.0.2.7, ", "_hidden, 10.0.0.2", "[2001:db8::1", "1.2.3.4:x"]
        {
            assert_eq!(from("10.0.0.1", &[value]), "10.0.0.1", "{value}");
        }
        // The proxy appends the client's address after the text that the client sent.
        assert_eq!(from("10.0.0.1", &["unknown, 192.0.2.7"]), "192.0.2.7");
    }
}
