//! Who an upstream is and how it is reached: its address, its credentials, what may pass in headers, and whose
//! fault an error answer is. A provider is data here, never a module.

pub mod fault;
mod gate;
pub mod headers;
mod lease;
mod pool;
pub mod send;
mod window;

use std::sync::Arc;

use http::{
    HeaderValue, Uri,
    header::{AUTHORIZATION, InvalidHeaderValue},
    uri::{InvalidUri, PathAndQuery},
};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::{
    config,
    domain::{
        chance::{self, Dice},
        standing::Standing,
    },
};

pub use lease::{Lease, NoPlace, Queue, Verdict};
pub use pool::{Pool, Pools};

/// The paths that are ever called, below an upstream's base URL. The client's own path never goes up: no request
/// can name a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /responses`.
    CreateResponse,
}

impl Endpoint {
    const fn path(self) -> &'static str {
        match self {
            Self::CreateResponse => "/responses",
        }
    }
}

/// One upstream, ready for use.
#[derive(Debug)]
pub struct Upstream {
    /// As configured.
    pub config: config::Upstream,
    create: Uri,
    /// A number that belongs to its name, by which requests that belong together choose it.
    pub home: u64,
    /// One at least.
    credentials: Vec<Credential>,
    pool: Arc<Pool>,
    health: config::Health,
    dice: Arc<Dice>,
}

/// A credential as the header value that carries it; a nameless one for an upstream that wants none.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in logs.
    pub name: Option<Arc<str>>,
    /// Marked sensitive, so that it is never printed.
    pub value: Option<HeaderValue>,
    /// A number that belongs to its account, by which requests that belong together choose it.
    pub seat: u64,
    max_in_flight: Option<usize>,
}

/// A credential of an upstream as it stands now.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Whether it may be asked: it and the upstream.
    pub standing: Standing,
    /// Whether it or the upstream has as many requests as it may have.
    pub full: bool,
    /// Its requests under way.
    pub in_flight: usize,
}

/// A setting that the checks of the configuration should have refused.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The address.
    #[error("upstream {0}: the base URL cannot be used: {1}")]
    Url(Arc<str>, InvalidUri),
    /// A credential; its text is not repeated.
    #[error("upstream {0}: credential {1} cannot be sent in a header")]
    Credential(Arc<str>, Arc<str>),
}

impl Upstream {
    /// Prepares an upstream.
    ///
    /// # Errors
    /// When its URL or a credential cannot be put into a request.
    pub fn new(
        config: config::Upstream,
        health: config::Health,
        pool: Arc<Pool>,
        dice: Arc<Dice>,
    ) -> Result<Self, Unusable> {
        let create = join(&config.base_url, Endpoint::CreateResponse, None)
            .map_err(|error| Unusable::Url(config.name.clone(), error))?;
        let bearer = config.auth_header == AUTHORIZATION;
        let mut credentials = config
            .credentials
            .iter()
            .map(|credential| {
                let value = header_value(credential, bearer)
                    .map_err(|_| Unusable::Credential(config.name.clone(), credential.name.clone()))?;
                Ok(Credential {
                    name: Some(Arc::clone(&credential.name)),
                    value: Some(value),
                    seat: chance::seed(&[&config.name, &credential.account]),
                    max_in_flight: credential.max_in_flight,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if credentials.is_empty() {
            credentials.push(Credential { name: None, value: None, seat: 0, max_in_flight: None });
        }
        let home = chance::seed(&[&config.name]);
        Ok(Self { config, create, home, credentials, pool, health, dice })
    }

    /// Where a call goes; the client's query follows as it came.
    ///
    /// # Errors
    /// Never for a query that was parsed as part of a URL.
    pub fn uri(&self, endpoint: Endpoint, query: Option<&str>) -> Result<Uri, InvalidUri> {
        match (endpoint, query) {
            (Endpoint::CreateResponse, None) => Ok(self.create.clone()),
            (endpoint, query) => join(&self.config.base_url, endpoint, query),
        }
    }

    /// Its credentials, each as it stands now.
    pub fn credentials(&self, now: Instant) -> impl Iterator<Item = (&Credential, Condition)> {
        let (whole, under_way) = (self.pool.standing(now), self.pool.in_flight());
        let full = |in_flight, limit: Option<usize>| limit.is_some_and(|limit| in_flight >= limit);
        self.credentials.iter().zip(self.pool.credentials(now)).map(move |(credential, (_, standing, in_flight))| {
            let full = full(under_way, self.config.max_in_flight) || full(in_flight, credential.max_in_flight);
            (credential, Condition { standing: whole.and(standing), full, in_flight })
        })
    }

    /// The credential of this index.
    pub fn credential(&self, index: usize) -> Option<&Credential> {
        self.credentials.get(index)
    }

    /// Its state, which all workers share.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The time to its first byte of late; none where that is not known.
    pub fn latency(&self, now: Instant) -> Option<std::time::Duration> {
        self.pool.latency(now)
    }
}

fn join(base: &Uri, endpoint: Endpoint, query: Option<&str>) -> Result<Uri, InvalidUri> {
    let mut path = format!("{}{}", base.path().trim_end_matches('/'), endpoint.path());
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path)?);
    // Scheme and authority are the base URL's own, so putting the parts together cannot fail.
    Ok(Uri::from_parts(parts).unwrap_or_default())
}

fn header_value(credential: &config::Credential, bearer: bool) -> Result<HeaderValue, InvalidHeaderValue> {
    let secret = credential.secret.expose_secret();
    let mut value =
        if bearer { HeaderValue::try_from(format!("Bearer {secret}"))? } else { HeaderValue::try_from(secret)? };
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_takes_the_place_of_v1_and_the_query_stays_raw() {
        let base = Uri::from_static("https://api.acedata.cloud/openai");
        let uri = join(&base, Endpoint::CreateResponse, Some("include%5B%5D=a&beta=true&&x=%zz")).unwrap();
        assert_eq!(uri, "https://api.acedata.cloud/openai/responses?include%5B%5D=a&beta=true&&x=%zz");
    }
}
