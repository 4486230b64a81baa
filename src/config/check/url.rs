//! Checks the URLs to which Tidegate sends requests: upstreams, webhooks and proxies.

use std::net::{IpAddr, Ipv4Addr};

use http::{Uri, uri::Authority};

/// What is wrong with a URL in the configuration, and how to correct it.
pub(super) type UrlError = (&'static str, &'static str);

/// Paths that provider pages print after the base URL, besides /responses.
const ENDPOINTS: [&str; 11] = [
    "/chat/completions",
    "/chat",
    "/completions",
    "/conversations",
    "/embeddings",
    "/moderations",
    "/images/generations",
    "/audio/speech",
    "/models",
    "/messages",
    "/responses/compact",
];

/// Parses the base URL of an upstream and removes its trailing slash. The check is strict, because the URL decides where every
/// request of the upstream goes.
pub(super) fn base(text: &str, insecure: bool) -> Result<Uri, UrlError> {
    const WHOLE: &str = "write the whole URL, such as \"https://www.dmxapi.cn/v1\"";
    let uri: Uri = text.parse().map_err(|_| ("is not a URL", WHOLE))?;
    let (scheme, host) = scheme_and_host(&uri).ok_or(("is not a URL with a scheme and a host", WHOLE))?;
    if scheme != "https" && scheme != "http" {
        return Err(("must begin with https:// or http://", WHOLE));
    }
    // `http::Uri` drops a fragment silently.
    if text.contains(['?', '#']) {
        return Err((
            "holds a query or a fragment",
            "remove the query or fragment: Tidegate sends the query of the client to the provider",
        ));
    }
    let path = uri.path().trim_end_matches('/');
    if path.is_empty() {
        return Err(("has no path", "add the path that takes the place of the client's /v1, mostly \"/v1\""));
    }
    if path.ends_with("/responses") {
        return Err(("ends in /responses", "remove /responses: Tidegate adds this path to each request"));
    }
    if ENDPOINTS.iter().any(|endpoint| path.ends_with(endpoint)) {
        return Err((
            "ends in the path of an endpoint",
            "remove the path of the endpoint, because Tidegate adds it to each request: for most providers `base_url` ends in /v1",
        ));
    }
    if path.contains("/v1/v1") {
        return Err(("holds /v1 twice", "write /v1 once"));
    }
    if scheme == "http" && !insecure && !is_private(host) {
        return Err((
            "uses http, so the credential would cross the internet unencrypted",
            "use https://, or write `insecure = true` if the network to the provider is private",
        ));
    }
    let base = text.trim_end_matches('/');
    base.parse().map_err(|_| ("is not a URL", WHOLE))
}

/// Parses the URL of the webhook for alerts. Its path and query may contain a secret of the receiver, so the URL is never shown.
pub(super) fn webhook(text: &str) -> Result<Uri, UrlError> {
    const WHOLE: &str = "write the whole URL, such as \"https://alerts.example.com/tidegate\"";
    let uri: Uri = text.parse().map_err(|_| ("is not a URL", WHOLE))?;
    let (scheme, host) = scheme_and_host(&uri).ok_or(("is not a URL with a scheme and a host", WHOLE))?;
    match scheme {
        "https" => Ok(uri),
        "http" if is_private(host) => Ok(uri),
        "http" => Err(("uses http, so names of keys would cross the internet unencrypted", "use https://")),
        _ => Err(("must begin with https:// or http://", WHOLE)),
    }
}

/// Parses the URL of a proxy on the way to an upstream.
pub(super) fn proxy(text: &str) -> Result<Uri, UrlError> {
    const WHOLE: &str = "write for example \"http://proxy.internal:3128\" or \"socks5://127.0.0.1:1080\", or \"env\" for the proxy of the environment";
    let uri: Uri = text.parse().map_err(|_| ("is not a URL", WHOLE))?;
    let (scheme, _) = scheme_and_host(&uri).ok_or(("is not a URL with a scheme and a host", WHOLE))?;
    if !["http", "socks5", "socks5h"].contains(&scheme) {
        return Err(("must begin with http://, socks5:// or socks5h://", WHOLE));
    }
    if !uri.path().trim_end_matches('/').is_empty() || text.contains(['?', '#']) {
        return Err(("holds more than scheme, host and port", WHOLE));
    }
    Ok(uri)
}

/// Returns scheme and host. Returns none for an invalid port, and for a URL with a user, because secrets have their own setting.
fn scheme_and_host(uri: &Uri) -> Option<(&str, &str)> {
    let authority: &Authority = uri.authority()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let port = authority.as_str().strip_prefix(host)?;
    let port_is_sound =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    port_is_sound.then_some((uri.scheme_str()?, host))
}

/// Whether plain HTTP to this host stays in a private network: loopback, private ranges, and names that only a private network
/// resolves.
fn is_private(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return match address.to_canonical() {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared(v4),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        };
    }
    // Resolvers read a last label of decimal or hexadecimal digits as an IPv4 address, which may be public.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    last == host || ["internal", "svc", "local", "localhost"].contains(&last)
}

/// Whether the address is in 100.64.0.0/10: shared address space of carriers and overlay networks.
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && (64..128).contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_inside() {
        for host in [
            "127.0.0.1",
            "localhost",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "[::1]",
            "[fc00::1]",
            "[fdab::1]",
            "[fe80::1]",
            "[::ffff:10.0.0.1]",
            "vllm",
            "vllm.internal",
            "vllm.prod.svc",
            "a.svc.cluster.local",
            "box.local",
            "api.localhost",
            "VLLM.Internal.",
        ] {
            assert!(base(&format!("http://{host}:8000/v1"), false).is_ok(), "{host}");
        }
        for host in [
            "www.dmxapi.cn",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "[2001:db8::1]",
            "0.0.0.0",
            "134744072",
            "0x08080808",
            "8.8.2056",
            "internal.example.com",
            "[::ffff:8.8.8.8]",
            "10.0.0.1.example.com",
            "notlocal.cn",
        ] {
            assert!(base(&format!("http://{host}/v1"), false).is_err(), "{host}");
            assert!(base(&format!("http://{host}/v1"), true).is_ok(), "{host}");
            assert!(base(&format!("https://{host}/v1"), false).is_ok(), "{host}");
        }
    }

    #[test]
    fn base_urls_are_whole_and_nothing_more() {
        assert_eq!(base("https://h.cn/a/v1//", false).map(|uri| uri.to_string()), Ok("https://h.cn/a/v1".into()));
        for text in [
            "",
            "/v1",
            "h.cn/v1",
            "https:///v1",
            "ftp://h.cn/v1",
            "https://h.cn",
            "https://h.cn/",
            "https://h.cn/v1?a=b",
            "https://h.cn/v1#a",
            "https://h.cn/v1/responses",
            "https://h.cn/v1/responses/",
            "https://h.cn/v1/chat/completions",
            "https://h.cn/v1/chat/completions/",
            "https://h.cn/v1/chat",
            "https://h.cn/v1/models",
            "https://h.cn/v1/embeddings",
            "https://h.cn/v1/v1",
            "https://h.cn/openai/v1/v1/",
            "https://u:p@h.cn/v1",
            "https://h.cn:0/v1",
            "https://h.cn:/v1",
            "https://h.cn:99999/v1",
            "https://h .cn/v1",
            "https://h.cn/v1?",
        ] {
            assert!(base(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn webhooks_are_encrypted_or_inside() {
        for text in ["https://h.cn/a?key=b", "http://127.0.0.1:9/x", "http://alerts.internal/", "https://h.cn"] {
            assert!(webhook(text).is_ok(), "{text}");
        }
        for text in ["", "h.cn/a", "http://h.cn/a", "ftp://h.cn/a", "https:///a", "https://u:p@h.cn/a"] {
            assert!(webhook(text).is_err(), "{text}");
        }
    }

    #[test]
    fn proxies_are_scheme_host_and_port() {
        for text in ["http://p:3128", "socks5://127.0.0.1:1080", "socks5h://p:1080", "http://p.cn/"] {
            assert!(proxy(text).is_ok(), "{text}");
        }
        for text in ["https://p:1", "p:3128", "http://p/x", "http://u:p@p:1", "socks4://p:1", "http://p:1?x"] {
            assert!(proxy(text).is_err(), "{text}");
        }
    }
}
