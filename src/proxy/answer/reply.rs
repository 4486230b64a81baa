//! The data of an answer that the client may get: its head, its body, and what is needed at its end.

use std::time::Duration;

use http::{HeaderMap, response::Parts};

use super::{affinity_recorder::AffinityRecorder, upstream_body::UpstreamBody};
use crate::{
    config::OnIncomplete,
    proxy::error::CLIENT_REQUEST_ID,
    upstream::{Lease, headers::Media},
};

/// The longest accepted id of a request. OpenAI's ids have 36 characters, and so do UUIDs.
const REQUEST_ID_LIMIT: usize = 128;

/// An upstream's answer for the client.
pub(in crate::proxy) struct Reply {
    pub(in crate::proxy) head: Parts,
    pub(in crate::proxy) media: Media,
    pub(in crate::proxy) source: UpstreamBody,
    pub(in crate::proxy) on_incomplete: OnIncomplete,
    pub(in crate::proxy) silence: Duration,
    /// The slot at the upstream. `None` = the slot was released.
    pub(in crate::proxy) lease: Option<Lease>,
    /// The recorder of the answer's references. Only a success has a recorder.
    pub(in crate::proxy) recorder: Option<AffinityRecorder>,
}

/// Returns the upstream's id of the request if the id may be logged. The limit keeps an upstream from writing pages into the
/// log.
pub(in crate::proxy) fn upstream_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(CLIENT_REQUEST_ID)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(|byte| byte.is_ascii_graphic())).then_some(id)
}
