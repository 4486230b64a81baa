//! Errors about the head of a request.

use super::ApiError;
use crate::domain::problem::Problem;

impl ApiError {
    /// A header that may appear once appears twice. Servers would disagree about which of the two is valid.
    pub(in crate::proxy) fn repeated_header(name: &'static str) -> Self {
        Self::new(
            Problem::RepeatedHeader,
            format!("The request has more than one `{name}` header. Send this header once."),
        )
    }

    pub(in crate::proxy) fn unsupported_media_type() -> Self {
        Self::new(
            Problem::UnsupportedMediaType,
            "The body must be JSON in UTF-8, and the request must say so. Send `Content-Type: application/json`.",
        )
    }
}
