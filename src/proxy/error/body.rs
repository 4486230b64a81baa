//! Errors about the body of a request.

use super::ApiError;
use crate::{
    domain::problem::Problem,
    protocol::{
        json::{JsonError, JsonErrorKind},
        references::request::MOST_LOOKED_UP,
    },
};

impl ApiError {
    pub(in crate::proxy) fn json(error: &JsonError) -> Self {
        match error.kind {
            JsonErrorKind::Repeated { name } => {
                Self::new(Problem::RepeatedField, format!("The body contains `{name}` more than once. Send it once."))
                    .about(name)
            }
            JsonErrorKind::LetterCase { name } => {
                let message = format!(
                    "The body contains `{name}` in another letter case, which some providers read as `{name}`. Remove or rename that field."
                );
                Self::new(Problem::RepeatedField, message).about(name)
            }
            JsonErrorKind::TooManyReferences => Self::too_many_references(),
            JsonErrorKind::ControlByte { name: Some("model") } | JsonErrorKind::InvalidUtf8 { name: Some("model") } => {
                Self::invalid_model("is not valid text.")
            }
            _ => Self::new(
                Problem::InvalidJson,
                format!("We could not parse the JSON body of your request: {error}. The body must be one JSON object."),
            ),
        }
    }

    pub(in crate::proxy) fn too_many_references() -> Self {
        Self::new(
            Problem::TooManyReferences,
            format!(
                "The request refers to more than {MOST_LOOKED_UP} stored objects, which this gateway looks up one by one. Send fewer."
            ),
        )
    }

    pub(in crate::proxy) fn too_large(limit: u64) -> Self {
        let mib = limit / (1024 * 1024);
        Self::new(
            Problem::RequestTooLarge,
            format!("The body is larger than this gateway accepts ({mib} MiB; `max_body_mib` in its configuration)."),
        )
        .closing()
    }

    pub(in crate::proxy) fn needless_body() -> Self {
        Self::new(Problem::RequestTooLarge, "This URL accepts no body. Send none.").closing()
    }

    pub(in crate::proxy) fn inflates_too_much() -> Self {
        Self::new(Problem::RequestTooLarge, "The decoded body is too large. Send less, or without Content-Encoding.")
            .closing()
    }

    pub(in crate::proxy) fn upstream_limit(limit: u64) -> Self {
        let mib = limit / (1024 * 1024);
        Self::new(
            Problem::UpstreamLimit,
            format!("The body is larger than any provider of this model accepts ({mib} MiB)."),
        )
    }

    pub(in crate::proxy) fn unsupported_encoding() -> Self {
        Self::new(
            Problem::UnsupportedEncoding,
            "This gateway does not support the Content-Encoding of the body. Send gzip, deflate, br or zstd, one of them, or none.",
        )
        .closing()
    }

    pub(in crate::proxy) fn invalid_encoding() -> Self {
        Self::new(Problem::InvalidEncoding, "The body is not valid in its Content-Encoding.").closing()
    }

    pub(in crate::proxy) fn large_window() -> Self {
        Self::new(
            Problem::InvalidEncoding,
            "The body is large-window brotli, which is not the content coding `br`. Compress it with a window of at \
             most 24 bits (`lgwin` <= 24, without the large-window option).",
        )
        .closing()
    }

    pub(in crate::proxy) fn request_timeout(why: &'static str) -> Self {
        Self::new(Problem::RequestTimeout, why).closing()
    }

    pub(in crate::proxy) fn request_aborted() -> Self {
        Self::new(Problem::RequestAborted, "The body ended before it was complete.").closing()
    }

    /// No memory is left for one more body. The request does not wait, because a waiting request holds memory too.
    pub(in crate::proxy) fn overloaded() -> Self {
        Self::new(
            Problem::GatewayOverloaded,
            "The memory of this gateway for request bodies is full (`max_body_memory_mib` in its configuration). \
             Try again in a moment.",
        )
    }

    pub(in crate::proxy) fn invalid_framing() -> Self {
        Self::new(Problem::InvalidFraming, "The chunks of the body are malformed.").closing()
    }

    /// Replaces a compressed success that repeats the credential.
    pub(in crate::proxy) fn echoed() -> Self {
        Self::new(
            Problem::UpstreamBadAnswer,
            "The provider's answer is compressed, which was not asked for, and repeats a credential of this gateway. The gateway \
             withholds it. Tell the operator.",
        )
    }

    /// Replaces a compressed error answer of an upstream.
    pub(in crate::proxy) fn withheld() -> Self {
        Self::new(
            Problem::UpstreamBadAnswer,
            "The provider sent a compressed error, although the request did not allow compression. This gateway cannot search it for \
             credentials and withholds it.",
        )
    }
}
