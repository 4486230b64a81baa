//! Upstreams: their addresses, their credentials, their health, the headers that pass, and who caused an error answer. A provider
//! is data here, never a module.

mod answer_body;
mod circuit_breaker;
mod connect;
pub mod connection;
mod dial;
mod echo;
mod failure_counts;
pub mod fault;
pub mod headers;
mod health;
mod idle;
mod inner_waker;
mod lease;
mod not_found;
mod pool;
pub mod send;
mod verdict;
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
    concurrent::random_source::RandomSource,
    config,
    domain::{
        endpoint::{Endpoint, Resource, Surface},
        health_state::HealthState,
        id::RequestId,
        random::{self},
    },
};

use self::echo::CredentialPatterns;

pub use answer_body::AnswerBody;
pub use echo::EchoWatch;
pub use failure_counts::KeyId;
pub use lease::{Lease, Queue, SlotUnavailable};
pub use pool::{Pool, Pools};
pub use verdict::{AttemptContext, ReportedVerdicts, Verdict};

/// One upstream, ready for requests: its settings, URLs and credentials, and its health state.
#[derive(Debug)]
pub struct Upstream {
    /// The settings as configured.
    pub config: config::Upstream,
    /// URLs of the endpoints without ids, by their positions in [`Endpoint::ALL`].
    uris: Vec<Option<Uri>>,
    /// A hash of the upstream's name. Requests that belong together use the hash to choose the same upstream.
    pub seed: u64,
    /// Never empty.
    credentials: Vec<Credential>,
    pool: Arc<Pool>,
    health: config::Health,
    random: Arc<RandomSource>,
}

/// A credential of an upstream: its name, its secret as a header value, and its account. An upstream that needs no credential has one
/// without name and value.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Name in logs.
    pub name: Option<Arc<str>>,
    /// Marked sensitive, so that no log prints the value.
    pub value: Option<HeaderValue>,
    /// A hash of the credential's account. Requests that belong together use the hash to choose the same account.
    pub account_id: u64,
    max_in_flight: Option<usize>,
    /// Secrets that must not reach the client in an answer.
    secrets: Option<Arc<CredentialPatterns>>,
}

impl Credential {
    /// Makes the watch that finds and masks this credential in the answer to request `id`.
    pub fn echo_watch(credential: Option<&Self>, id: RequestId) -> EchoWatch {
        EchoWatch::new(credential.and_then(|credential| credential.secrets.clone()), id)
    }
}

/// The current state of one credential of an upstream: health state, requests in progress, and whether a limit is reached.
#[derive(Clone, Copy, Debug)]
pub struct CredentialStatus {
    /// The worse of the credential's and the upstream's health states.
    pub health_state: HealthState,
    /// Whether the credential or the upstream has reached its `max_in_flight`.
    pub full: bool,
    /// Requests of this credential that are in flight.
    pub in_flight: usize,
}

/// Why an upstream cannot be used: its base URL or a credential is invalid. The check of the configuration should have refused the
/// setting.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The base URL.
    #[error("the `base_url` of the upstream {0} cannot be used: {1}")]
    Url(Arc<str>, InvalidUri),
    /// A credential. The error does not repeat its secret.
    #[error(
        "the credential {1} of the upstream {0} contains characters that a header cannot have: set a correct secret"
    )]
    Credential(Arc<str>, Arc<str>),
}

impl Upstream {
    /// Makes an upstream from its configuration: joins the URLs, and prepares the credentials as header values.
    ///
    /// # Errors
    /// When the base URL or a credential cannot be used in a request.
    pub fn new(
        config: config::Upstream,
        health: config::Health,
        pool: Arc<Pool>,
        random: Arc<RandomSource>,
    ) -> Result<Self, UpstreamConfigError> {
        let uri = |endpoint: Endpoint| {
            let joined = (!endpoint.has_ids()).then(|| join(&config.base_url, &endpoint.into(), None));
            joined.transpose().map_err(|error| UpstreamConfigError::Url(config.name.clone(), error))
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
                    .map_err(|_| UpstreamConfigError::Credential(config.name.clone(), credential.name.clone()))?;
                Ok(Credential {
                    name: Some(Arc::clone(&credential.name)),
                    value: Some(value),
                    account_id: random::seed(&[&config.name, &credential.account]),
                    max_in_flight: credential.max_in_flight,
                    secrets: secrets(Some((&credential.name, credential.secret.expose_secret()))),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if credentials.is_empty() {
            let account_id = random::seed(&[&config.name, ""]);
            credentials.push(Credential {
                name: None,
                value: None,
                account_id,
                max_in_flight: None,
                secrets: secrets(None),
            });
        }
        let seed = random::seed(&[&config.name]);
        Ok(Self { config, uris, seed, credentials, pool, health, random })
    }

    /// Returns the URL to which the upstream gets a call, with the client's query unchanged. The client's own path is never sent
    /// upstream, so no request can name a destination.
    ///
    /// # Errors
    /// Never for a query that was parsed as part of a URL.
    pub fn uri(&self, resource: &Resource<'_>, query: Option<&str>) -> Result<Uri, InvalidUri> {
        match (self.uris.get(resource.endpoint as usize), query) {
            (Some(Some(uri)), None) => Ok(uri.clone()),
            _ => join(&self.config.base_url, resource, query),
        }
    }

    /// Whether the upstream offers this part of the API, by its setting `surface`.
    pub fn has(&self, surface: Surface) -> bool {
        self.config.surface.contains(&surface)
    }

    /// Returns the upstream's credentials with their current health states for a model ("" = the request names none), whichever key sends
    /// the request.
    pub fn credentials(&self, model: &str, now: Instant) -> impl Iterator<Item = (&Credential, CredentialStatus)> {
        self.credentials_for(model, failure_counts::ANY_KEY, now)
    }

    /// Returns the upstream's credentials with their current health states for a model ("" = the request names none), for requests of
    /// this client key.
    pub fn credentials_for(
        &self,
        model: &str,
        key: KeyId,
        now: Instant,
    ) -> impl Iterator<Item = (&Credential, CredentialStatus)> {
        let (whole, under_way) = (self.pool.health_state_for(model, key, now), self.pool.in_flight());
        let full = |in_flight, limit: Option<usize>| limit.is_some_and(|limit| in_flight >= limit);
        self.credentials.iter().zip(self.pool.credentials_for(model, key, now)).map(
            move |(credential, (health_state, in_flight))| {
                let full = full(under_way, self.config.max_in_flight) || full(in_flight, credential.max_in_flight);
                (credential, CredentialStatus { health_state: whole.and(health_state), full, in_flight })
            },
        )
    }

    /// Whether the upstream has a credential of this account.
    pub fn has_account(&self, account_id: u64) -> bool {
        self.credentials.iter().any(|credential| credential.account_id == account_id)
    }

    /// Returns the upstream's credential with this index.
    pub fn credential(&self, index: usize) -> Option<&Credential> {
        self.credentials.get(index)
    }

    /// Records the status of an upstream's answer that shows whether the base URL is right. Answers of endpoints with an id, or about a
    /// model, do not show that.
    pub fn answered(&self, status: http::StatusCode) {
        self.pool.shared.not_found.note(status, &self.config.name, &self.config.base_url);
    }

    /// Returns the upstream's state at run time (health, requests in progress, latency), which all workers share.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the upstream's recent average time to the first byte of an answer, if one is known.
    pub fn latency(&self, now: Instant) -> Option<std::time::Duration> {
        self.pool.latency(now)
    }
}

fn join(base: &Uri, resource: &Resource<'_>, query: Option<&str>) -> Result<Uri, InvalidUri> {
    let prefix = base.path().trim_end_matches('/');
    // Enough for nearly every call: an id has about 60 characters.
    let mut path = String::with_capacity(prefix.len() + query.map_or(0, str::len) + 128);
    path.push_str(prefix);
    resource.write(&mut path);
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path)?);
    // Scheme and authority come from a valid base URL, so the parts always make a valid URL.
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
