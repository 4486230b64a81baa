//! Errors about the body of a request.

use super::ApiError;
use crate::{
    domain::problem::Problem,
    protocol::{
        coding::MAX_RATIO,
        json::{JsonError, JsonErrorKind},
        references::request::MOST_LOOKED_UP,
    },
};

impl ApiError {
    pub(in crate::proxy) fn json(error: &JsonError) -> Self {
        match error.kind {
            JsonErrorKind::Repeated { name } => Self::new(
                Problem::RepeatedField,
                format!("The body contains the field `{name}` more than once. Send this field once."),
            )
            .about(name),
            JsonErrorKind::LetterCase { name } => {
                let message = format!(
                    "The body contains the field `{name}` in another letter case. Some providers read that field as \
                     `{name}`. Remove or rename that field."
                );
                Self::new(Problem::RepeatedField, message).about(name)
            }
            JsonErrorKind::TooManyReferences => Self::too_many_references(),
            JsonErrorKind::ControlByte { name: Some("model") } | JsonErrorKind::InvalidUtf8 { name: Some("model") } => {
                Self::invalid_model("is not valid text. Send the name of a model in UTF-8.")
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
            format!("The request may refer to at most {MOST_LOOKED_UP} stored objects. Send fewer references."),
        )
    }

    pub(in crate::proxy) fn too_large(limit: u64) -> Self {
        let mib = limit / (1024 * 1024);
        Self::new(
            Problem::RequestTooLarge,
            format!(
                "The body may have at most {mib} MiB (`max_body_mib` in the configuration of this gateway). Send less."
            ),
        )
        .closing()
    }

    pub(in crate::proxy) fn needless_body() -> Self {
        Self::new(Problem::RequestTooLarge, "This URL accepts no body. Send the request without a body.").closing()
    }

    pub(in crate::proxy) fn inflates_too_much() -> Self {
        Self::new(
            Problem::RequestTooLarge,
            format!(
                "The decoded body is more than {MAX_RATIO} times as large as the compressed body, which is not allowed. Send the body \
                 without Content-Encoding."
            ),
        )
        .closing()
    }

    pub(in crate::proxy) fn upstream_limit(limit: u64) -> Self {
        let mib = limit / (1024 * 1024);
        Self::new(
            Problem::UpstreamLimit,
            format!("The body may have at most {mib} MiB for this model. Send less, or use another model."),
        )
    }

    pub(in crate::proxy) fn unsupported_encoding() -> Self {
        Self::new(
            Problem::UnsupportedEncoding,
            "This gateway does not support the Content-Encoding of the body. Use one of gzip, deflate, br and zstd, or \
             none.",
        )
        .closing()
    }

    pub(in crate::proxy) fn invalid_encoding() -> Self {
        Self::new(
            Problem::InvalidEncoding,
            "The body does not match the Content-Encoding header. Encode the body correctly, or send the body without \
             Content-Encoding.",
        )
        .closing()
    }

    pub(in crate::proxy) fn large_window() -> Self {
        Self::new(
            Problem::InvalidEncoding,
            "The body is large-window brotli, which the content coding `br` does not allow. Compress the body with a \
             window of at most 24 bits (`lgwin` <= 24).",
        )
        .closing()
    }

    pub(in crate::proxy) fn request_timeout(why: &'static str) -> Self {
        Self::new(Problem::RequestTimeout, why).closing()
    }

    pub(in crate::proxy) fn request_aborted() -> Self {
        Self::new(
            Problem::RequestAborted,
            "The body of the request ended before all bytes had arrived. Send the request again.",
        )
        .closing()
    }

    /// No memory is left for one more body. The request does not wait, because a waiting request holds memory too.
    pub(in crate::proxy) fn overloaded() -> Self {
        Self::new(
            Problem::GatewayOverloaded,
            "The memory of this gateway for request bodies is full (`max_body_memory_mib` in the configuration of this \
             gateway). Try again in a moment.",
        )
    }

    pub(in crate::proxy) fn invalid_framing() -> Self {
        Self::new(
            Problem::InvalidFraming,
            "The body of the request has malformed chunks. Send correct chunks, or a Content-Length header.",
        )
        .closing()
    }

    /// Replaces a compressed success that repeats the credential.
    pub(in crate::proxy) fn echoed() -> Self {
        Self::new(
            Problem::UpstreamBadAnswer,
            "The provider sent a compressed answer that repeats a credential of this gateway. This gateway withholds \
             the answer. Tell the operator of this gateway.",
        )
    }

    /// Replaces a compressed error answer of an upstream.
    pub(in crate::proxy) fn withheld() -> Self {
        Self::new(
            Problem::UpstreamBadAnswer,
            "The provider sent a compressed error, although the request allowed no compression. This gateway cannot \
             search the error for credentials and withholds the error. Tell the operator of this gateway.",
        )
    }
}
