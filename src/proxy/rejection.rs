//! What the log says of a request that Tidegate rejects early.

use http::HeaderMap;

use super::{arrival::RequestArrival, tables::Tables};
use crate::{auth, domain::outcome::RejectedRequest};

/// Returns what the log says of a request that is rejected early.
pub(super) fn rejected(tables: &Tables, headers: &HeaderMap, arrival: &RequestArrival) -> RejectedRequest {
    let client = tables.keys.client(headers, arrival.source()).filter(|_| tables.logs_client_ip);
    RejectedRequest { client, key_begins: auth::loggable_prefix(headers), ..RejectedRequest::default() }
}
