//! A request as it arrives.

use crate::{auth::RequestSource, domain::id::RequestId, metering::DisconnectRecord};

/// What Tidegate knows of a request before it reads the head.
#[derive(Clone, Debug)]
pub struct RequestArrival {
    /// Tidegate's id of the request.
    pub id: RequestId,
    /// Says why the connection of the request ended, if the connection ended.
    pub disconnect: DisconnectRecord,
}

impl RequestArrival {
    pub(super) fn source(&self) -> RequestSource {
        RequestSource { peer: self.disconnect.peer(), now: self.id.millis() }
    }
}
