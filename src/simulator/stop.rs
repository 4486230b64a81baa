//! What ends a call without an answer of the usual kind.

use http::Response;

use super::body::Body;
use super::fault::Fault;

/// Why there is no answer of the usual kind.
pub(super) enum Stop {
    Refused(Box<Fault>),
    /// Another answer, which a directive asked for.
    Instead(Box<Response<Body>>),
    /// The connection closes without an answer.
    CutHead,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Refused(Box::new(fault))
    }
}
