//! Who an upstream is and how it is reached: its address, its credentials, what may pass in headers, and whose
//! fault an error answer is. A provider is data here, never a module.

mod connect;
mod echo;
pub mod fault;
mod gate;
pub mod headers;
mod lease;
mod not_found;
mod pool;
pub mod send;
mod tally;
mod verdict;
mod ward;
mod window;
mod wire;

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
        endpoint::{Endpoint, Resource, Surface},
        standing::HealthState,
    },
};

use self::echo::CredentialPatterns;

pub use echo::EchoWatch;
pub use lease::{Lease, NoSlot, Queue};
pub use pool::{Pool, Pools};
pub use tally::KeyId;
pub use verdict::{AttemptContext, ReportedVerdicts, Verdict};

/// One upstream, ready for use.
#[derive(Debug)]
pub struct Upstream {
    /// As configured.
    pub config: config::Upstream,
    /// Where endpoints are that have no ids, by their places in the table.
    uris: Vec<Option<Uri>>,
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
    /// What must not come back in an answer.
    secrets: Option<Arc<CredentialPatterns>>,
}

/// A credential of an upstream as it stands now.
#[derive(Clone, Copy, Debug)]
pub struct CredentialStatus {
    /// Whether it may be asked: it and the upstream.
    pub standing: HealthState,
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
        let uri = |endpoint: Endpoint| {
            let joined = (!endpoint.has_ids()).then(|| join(&config.base_url, &endpoint.into(), None));
            joined.transpose().map_err(|error| Unusable::Url(config.name.clone(), error))
        };
        let uris = Endpoint::ALL.into_iter().map(uri).collect::<Result<_, _>>()?;
        let secrets = |credential: Option<(&Arc<str>, &str)>| {
            CredentialPatterns::new(&config.name, credential, &config.headers, pool.metrics.clone())
        };
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
                    secrets: secrets(Some((&credential.name, credential.secret.expose_secret()))),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if credentials.is_empty() {
            let seat = chance::seed(&[&config.name, ""]);
            credentials.push(Credential { name: None, value: None, seat, max_in_flight: None, secrets: secrets(None) });
        }
        let home = chance::seed(&[&config.name]);
        Ok(Self { config, uris, home, credentials, pool, health, dice })
    }

    /// Where a call goes; the client's query follows as it came. The client's own path never goes up: no request can name
    /// a destination.
    ///
    /// # Errors
    /// Never for a query that was parsed as part of a URL.
    pub fn uri(&self, resource: &Resource<'_>, query: Option<&str>) -> Result<Uri, InvalidUri> {
        match (self.uris.get(resource.endpoint as usize), query) {
            (Some(Some(uri)), None) => Ok(uri.clone()),
            _ => join(&self.config.base_url, resource, query),
        }
    }

    /// Whether it has this part of the API.
    pub fn has(&self, surface: Surface) -> bool {
        self.config.surface.contains(&surface)
    }

    /// Its credentials, each as it stands now for a model ("" = for requests that name none), whoever asks.
    pub fn credentials(&self, model: &str, now: Instant) -> impl Iterator<Item = (&Credential, CredentialStatus)> {
        self.credentials_for(model, tally::ANY_KEY, now)
    }

    /// The same for what this client key asks.
    pub fn credentials_for(
        &self,
        model: &str,
        key: KeyId,
        now: Instant,
    ) -> impl Iterator<Item = (&Credential, CredentialStatus)> {
        let (whole, under_way) = (self.pool.standing_for(model, key, now), self.pool.in_flight());
        let full = |in_flight, limit: Option<usize>| limit.is_some_and(|limit| in_flight >= limit);
        self.credentials.iter().zip(self.pool.credentials_for(model, key, now)).map(
            move |(credential, (standing, in_flight))| {
                let full = full(under_way, self.config.max_in_flight) || full(in_flight, credential.max_in_flight);
                (credential, CredentialStatus { standing: whole.and(standing), full, in_flight })
            },
        )
    }

    /// Whether a credential of this account is here.
    pub fn has_account(&self, seat: u64) -> bool {
        self.credentials.iter().any(|credential| credential.seat == seat)
    }

    /// The credential of this index.
    pub fn credential(&self, index: usize) -> Option<&Credential> {
        self.credentials.get(index)
    }

    /// Notes the status of an answer that tells whether the base URL is right: of an endpoint without an id, and not about a model.
    pub fn answered(&self, status: http::StatusCode) {
        self.pool.shared.not_found.note(status, &self.config.name, &self.config.base_url);
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

fn join(base: &Uri, resource: &Resource<'_>, query: Option<&str>) -> Result<Uri, InvalidUri> {
    let prefix = base.path().trim_end_matches('/');
    // Room for nearly all: an id of some 60 characters.
    let mut path = String::with_capacity(prefix.len() + query.map_or(0, str::len) + 128);
    path.push_str(prefix);
    resource.write(&mut path);
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
        let uri = join(&base, &Endpoint::CreateResponse.into(), Some("include%5B%5D=a&beta=true&&x=%zz")).unwrap();
        assert_eq!(uri, "https://api.acedata.cloud/openai/responses?include%5B%5D=a&beta=true&&x=%zz");
        let resource = Endpoint::RetrieveResponse.resource("/v1/responses/resp_1").unwrap();
        let uri = join(&base, &resource, Some("stream=true&starting_after=7")).unwrap();
        assert_eq!(uri, "https://api.acedata.cloud/openai/responses/resp_1?stream=true&starting_after=7");
    }
}
