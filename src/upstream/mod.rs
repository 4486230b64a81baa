//! Who an upstream is and how it is reached: its address, its credentials, what may pass in headers, and whose
//! fault an error answer is. A provider is data here, never a module.

pub mod fault;
pub mod headers;
pub mod send;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{
    HeaderValue, Uri,
    header::{AUTHORIZATION, InvalidHeaderValue},
    uri::{InvalidUri, PathAndQuery},
};
use secrecy::ExposeSecret;

use crate::config;

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
    credentials: Vec<Credential>,
    next: AtomicUsize,
}

/// A credential as the header value that carries it.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in logs.
    pub name: Arc<str>,
    /// Marked sensitive, so that it is never printed.
    pub value: HeaderValue,
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
    pub fn new(config: config::Upstream) -> Result<Self, Unusable> {
        let create = join(&config.base_url, Endpoint::CreateResponse, None)
            .map_err(|error| Unusable::Url(config.name.clone(), error))?;
        let bearer = config.auth_header == AUTHORIZATION;
        let credentials = config
            .credentials
            .iter()
            .map(|credential| {
                header_value(credential, bearer)
                    .map(|value| Credential { name: credential.name.clone(), value })
                    .map_err(|_| Unusable::Credential(config.name.clone(), credential.name.clone()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { config, create, credentials, next: AtomicUsize::new(0) })
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

    /// The credential for the next call: each in turn. None where the upstream wants none.
    pub fn credential(&self) -> Option<&Credential> {
        match self.credentials.as_slice() {
            [] => None,
            [only] => Some(only),
            several => several.get(self.next.fetch_add(1, Ordering::Relaxed) % several.len()),
        }
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
