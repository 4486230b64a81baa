//! Makes TCP connections to the first address of a host name that answers, after RFC 8305 ("Happy Eyeballs").

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_service::Service;

/// The dialer tries the next address in parallel if an address does not answer within this time. RFC 8305 recommends 250 ms.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// For this long the dialer tries the address that answered last first. After that the resolver's order applies again.
const REMEMBERED: Duration = Duration::from_secs(600);

/// An error of any kind.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A running attempt to connect.
pub(super) type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A running lookup of a host name.
pub(super) type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Looks up the addresses of a host name.
pub(super) type Resolve = Arc<dyn Fn(String, u16) -> Resolving + Send + Sync>;

/// Returns the resolver of the operating system.
pub(super) fn system() -> Resolve {
    Arc::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }))
}

/// Connects to one host: the upstream, or the proxy in front of the upstream.
#[derive(Clone)]
pub(super) struct Dialer {
    http: HttpConnector,
    resolve: Resolve,
    /// The address that answered last, and the time of the answer.
    remembered: Arc<Mutex<Option<(SocketAddr, Instant)>>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("remembered", &self.remembered).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Makes a dialer that connects to the addresses which `resolve` finds. `http` sets the socket options.
    pub(super) fn new(http: HttpConnector, resolve: Resolve) -> Self {
        Self { http, resolve, remembered: Arc::default() }
    }

    async fn connect(mut self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let host = uri.host().ok_or("the URL names no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(self.http.call(place(SocketAddr::new(address, port))?).await?);
        }
        let addresses = (self.resolve)(host.to_owned(), port).await?;
        let addresses = order(addresses, self.remembered());
        let (stream, address) = self.race(addresses).await?;
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, Instant::now()));
        Ok(stream)
    }

    fn remembered(&self) -> Option<SocketAddr> {
        let remembered = *self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.filter(|(_, since)| since.elapsed() < REMEMBERED).map(|(address, _)| address)
    }

    /// Tries the addresses in order, the next one as soon as one fails or is slow. The first address that answers wins; dropping
    /// the set ends the other attempts.
    async fn race(&mut self, addresses: Vec<SocketAddr>) -> Result<(TokioIo<TcpStream>, SocketAddr), BoxError> {
        let mut tries = JoinSet::new();
        let mut rest = addresses.into_iter().peekable();
        let mut failed: Option<BoxError> = None;
        loop {
            if let Some(address) = rest.next() {
                let connecting = self.http.call(place(address)?);
                tries.spawn(async move { connecting.await.map(|stream| (stream, address)) });
            }
            let tried = tokio::select! {
                tried = tries.join_next() => tried,
                () = sleep(NEXT_ADDRESS_AFTER), if rest.peek().is_some() => continue,
            };
            match tried {
                Some(Ok(Ok(connected))) => return Ok(connected),
                // The first error is the most useful one.
                Some(Ok(Err(error))) => failed = failed.or(Some(error.into())),
                Some(Err(error)) => failed = failed.or(Some(error.into())),
                None => return Err(failed.unwrap_or_else(|| "the name has no address".into())),
            }
        }
    }
}

/// Returns a URL for an address.
fn place(address: SocketAddr) -> Result<Uri, http::Error> {
    Uri::builder().scheme(Scheme::HTTP).authority(address.to_string()).path_and_query("/").build()
}

/// Returns the order in which the dialer tries addresses: the remembered one first, then IPv6 and IPv4 in turn. The family of the
/// resolver's first address begins.
fn order(addresses: Vec<SocketAddr>, remembered: Option<SocketAddr>) -> Vec<SocketAddr> {
    let family = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == family);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        let next = [first.next(), second.next()];
        if next == [None, None] {
            break;
        }
        ordered.extend(next.into_iter().flatten());
    }
    if let Some(place) = remembered.and_then(|address| ordered.iter().position(|other| *other == address)) {
        ordered.get_mut(..=place).into_iter().for_each(|slice| slice.rotate_right(1));
    }
    ordered
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_alternate_and_the_remembered_address_is_first() {
        let all = |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let found = all(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"]);
        let turns = all(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"]);
        assert_eq!(order(found.clone(), None), turns);
        assert_eq!(order(found.clone(), Some("9.9.9.9:1".parse().unwrap())), turns);
        let first = all(&["2.2.2.2:1", "[::1]:1", "1.1.1.1:1", "[::2]:1", "3.3.3.3:1"]);
        assert_eq!(order(found, Some(first[0])), first);
        assert_eq!(order(all(&["1.1.1.1:1", "[::1]:1"]), None), all(&["1.1.1.1:1", "[::1]:1"]));
        assert_eq!(order(Vec::new(), None), []);
    }
}
