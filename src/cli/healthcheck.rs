//! `tidegate healthcheck`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::runtime::Builder;

use super::output;
use crate::config::Source;

/// Docker gives a health check 30 s by default; a gateway that needs 5 s for this is not healthy.
const WITHIN: Duration = Duration::from_secs(5);

/// Asks the gateway that this configuration describes whether it is alive.
pub(super) fn run(source: &Source) -> ExitCode {
    let address = match output::load(source) {
        Ok(loaded) => reachable(loaded.config.server.listen),
        Err(code) => return code,
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(error),
    };
    match runtime.block_on(ask(address)) {
        Ok(status) if status.is_success() => ExitCode::SUCCESS,
        Ok(status) => output::fail(format_args!("{address} answers {status}")),
        Err(error) => output::fail(format_args!("{address} does not answer: {error}")),
    }
}

async fn ask(address: SocketAddr) -> reqwest::Result<reqwest::StatusCode> {
    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(WITHIN).build()?;
    Ok(client.get(format!("http://{address}/healthz")).send().await?.status())
}

/// An address to listen on everywhere is reached on loopback.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everywhere_is_reached_on_loopback() {
        for (listen, asked) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
