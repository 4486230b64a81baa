//! What handlers take from a request.

use std::{convert::Infallible, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::Data;
use crate::{metering::DisconnectRecord, proxy::RequestArrival};

/// The request's id and its connection's fate. Every handler of the API takes it, so that every request has them.
///
/// An extractor and not a layer: a layer would box one more future for each request.
pub(super) struct ArrivedRequest(pub(super) RequestArrival);

impl FromRequestParts<Arc<Data>> for ArrivedRequest {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, data: &Arc<Data>) -> Result<Self, Infallible> {
        let departure = parts.extensions.remove::<DisconnectRecord>().unwrap_or_default();
        Ok(Self(data.proxy.arrival(departure)))
    }
}
