//! Reasons to end a call without its usual answer.

use http::Response;

use super::body::AnswerBody;
use super::fault::SimulatedError;

/// Why a call gets no usual answer.
pub(super) enum NoAnswer {
    Refused(Box<SimulatedError>),
    /// A directive asked for another answer.
    Instead(Box<Response<AnswerBody>>),
    /// The connection closes without an answer.
    CutHead,
}

impl From<SimulatedError> for NoAnswer {
    fn from(fault: SimulatedError) -> Self {
        Self::Refused(Box::new(fault))
    }
}
