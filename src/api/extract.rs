//! Extractors of the handlers.

use std::{convert::Infallible, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::DataPlane;
use crate::{metering::DisconnectRecord, proxy::RequestArrival};

/// What every API handler extracts from a request: the new id of the request, and the record of why its client disconnects.
///
/// This is an extractor and not a layer, because a layer would box one more future for each request.
pub(super) struct ArrivedRequest(pub(super) RequestArrival);

impl FromRequestParts<Arc<DataPlane>> for ArrivedRequest {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, data: &Arc<DataPlane>) -> Result<Self, Infallible> {
        let disconnect = parts.extensions.remove::<DisconnectRecord>().unwrap_or_default();
        Ok(Self(data.proxy.arrival(disconnect)))
    }
}
