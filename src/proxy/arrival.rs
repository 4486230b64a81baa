//! A request as it arrives.

use crate::{auth::RequestSource, domain::id::RequestId, metering::DisconnectRecord};

/// A request that has just arrived: its id, and the record of why its connection ends. The head of the request is not read yet.
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
