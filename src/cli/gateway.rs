//! Sends a request to the gateway that runs with this configuration.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use reqwest::{Client, ClientBuilder, Response, Url, redirect::Policy};
use rustls::crypto::aws_lc_rs;
use tokio::runtime::Builder;

use crate::config::Listen;

/// A running gateway answers at once. Docker gives a health check 30 s by default: a gateway that needs more than 5 s is not healthy.
const WITHIN: Duration = Duration::from_secs(5);

/// Why a command got no answer from the running gateway.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a `GET` request to the gateway that listens at `listen`, and returns what `read` makes of the answer.
///
/// The request contains no secret. So the client accepts any certificate: a certificate rarely names a loopback address, and a
/// gateway whose certificate file was replaced or refused still works with the previous certificate.
///
/// # Errors
/// When no answer came within 5 s.
pub(super) fn get<T>(
    listen: &Listen,
    tls: bool,
    path: &str,
    query: &[(&str, &str)],
    read: impl AsyncFnOnce(Response) -> reqwest::Result<T>,
) -> Result<T, BoxError> {
    // Fails only if a provider is installed already, which serves as well.
    let _ = aws_lc_rs::default_provider().install_default();
    let listen = reachable(listen);
    let scheme = if tls { "https" } else { "http" };
    let host = listen.address().map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    let url = Url::parse_with_params(&format!("{scheme}://{host}{path}"), query)?;
    let client =
        Client::builder().no_proxy().redirect(Policy::none()).timeout(WITHIN).tls_danger_accept_invalid_certs(true);
    let client = connecting_to(client, &listen);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { read(client.build()?.get(url).send().await?).await })?)
}

#[cfg(unix)]
fn connecting_to(client: ClientBuilder, listen: &Listen) -> ClientBuilder {
    match listen {
        Listen::Socket(path) => client.unix_socket(path.to_path_buf()),
        Listen::Address(_) => client,
    }
}

#[cfg(not(unix))]
fn connecting_to(client: ClientBuilder, _: &Listen) -> ClientBuilder {
    client
}

/// Returns the address at which a command reaches the running gateway: loopback instead of an unspecified address.
pub(super) fn reachable(listen: &Listen) -> Listen {
    let Listen::Address(mut address) = *listen else { return listen.clone() };
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("unix:/t", "unix:/t"),
        ] {
            assert_eq!(reachable(&listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
