//! The names of every error that Tidegate itself answers. Fixed once, here: they are `error.code` on the wire,
//! the `problem` field in the log and a label in the metrics.

/// An error of ours, by what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// No bearer key, or one that is not known.
    InvalidApiKey,
    /// A path that does not exist here.
    UnknownUrl,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// A WebSocket upgrade, which is not served.
    WebsocketUnsupported,
    /// The model does not exist or this key may not use it: the two look the same.
    ModelNotFound,
    /// No response, conversation or item has this id, or this key may not use it: the two look the same.
    UnknownId,
    /// `previous_response_id` names nothing, or nothing that this key may use: the two look the same.
    PreviousResponseNotFound,
    /// The request refers to state that lives in different accounts.
    ConflictingState,
    /// It lives in an account that is not there any more.
    StateLost,
    /// It lives in an account that is left alone now.
    StateUnavailable,
    /// Where it lives cannot be known now.
    AffinityUnavailable,
    /// The endpoint exists, and nobody who could be asked has it.
    UnsupportedEndpoint,
    /// No `model` in the body and no default to send it to.
    ModelRequired,
    /// `model` is not a usable string.
    InvalidModel,
    /// The key has a budget, and a target of the model has no price.
    UnpricedModel,
    /// The body is not one JSON object.
    InvalidJson,
    /// The body refers to more stored objects than are looked up for one request.
    TooManyReferences,
    /// A field that we act on stands twice, or in another letter case.
    RepeatedField,
    /// The body is over `max_body_mib`.
    RequestTooLarge,
    /// The body is over what the upstream takes.
    UpstreamLimit,
    /// The `Content-Type` is not JSON in UTF-8.
    UnsupportedMediaType,
    /// A header that may stand once, such as `Content-Type`, stands twice.
    RepeatedHeader,
    /// A content coding that we do not know.
    UnsupportedEncoding,
    /// A coded body that does not decode.
    InvalidEncoding,
    /// The body did not come in time.
    RequestTimeout,
    /// The client broke off inside its body.
    RequestAborted,
    /// Where the request, its head or its body begins and ends cannot be told without doubt.
    InvalidFraming,
    /// The head of the request is too large.
    HeadTooLarge,
    /// No connection to the upstream.
    UpstreamUnreachable,
    /// The upstream closed before it answered.
    UpstreamDisconnected,
    /// No answer in time.
    UpstreamTimeout,
    /// The upstream refused our credential.
    UpstreamAuth,
    /// A redirect, a page where an API answer should be, or no HTTP at all.
    UpstreamBadAnswer,
    /// Every candidate has as many requests as it may have.
    UpstreamBusy,
    /// All request bodies together are over `max_body_memory_mib`.
    GatewayOverloaded,
    /// What the request costs cannot be put down now.
    LedgerUnavailable,
    /// What is left of the limits cannot be known now, and `fail = "closed"`.
    LimitsUnavailable,
    /// The keys of the store were never read, so nobody knows whether this is one of them.
    KeysUnavailable,
    /// The key or its group has used its requests of this minute.
    RequestLimit,
    /// The key or its group has used its tokens of this minute.
    TokenLimit,
    /// The key or its group has as many requests under way as it may have.
    InFlightLimit,
    /// What is left of the budget of the key or its group is set aside by requests under way.
    BudgetReserved,
    /// The key or its group has spent its budget.
    BudgetSpent,
    /// A part of the query of the URL is not what it may be.
    InvalidQuery,
    /// A fault of our own.
    Internal,
}

impl Problem {
    /// All of them.
    pub const ALL: [Self; 45] = [
        Self::InvalidApiKey,
        Self::UnknownUrl,
        Self::MethodNotAllowed,
        Self::WebsocketUnsupported,
        Self::ModelNotFound,
        Self::UnknownId,
        Self::PreviousResponseNotFound,
        Self::ConflictingState,
        Self::StateLost,
        Self::StateUnavailable,
        Self::AffinityUnavailable,
        Self::UnsupportedEndpoint,
        Self::ModelRequired,
        Self::InvalidModel,
        Self::UnpricedModel,
        Self::InvalidJson,
        Self::TooManyReferences,
        Self::RepeatedField,
        Self::RequestTooLarge,
        Self::UpstreamLimit,
        Self::UnsupportedMediaType,
        Self::RepeatedHeader,
        Self::UnsupportedEncoding,
        Self::InvalidEncoding,
        Self::RequestTimeout,
        Self::RequestAborted,
        Self::InvalidFraming,
        Self::HeadTooLarge,
        Self::UpstreamUnreachable,
        Self::UpstreamDisconnected,
        Self::UpstreamTimeout,
        Self::UpstreamAuth,
        Self::UpstreamBadAnswer,
        Self::UpstreamBusy,
        Self::GatewayOverloaded,
        Self::LedgerUnavailable,
        Self::LimitsUnavailable,
        Self::KeysUnavailable,
        Self::RequestLimit,
        Self::TokenLimit,
        Self::InFlightLimit,
        Self::BudgetReserved,
        Self::BudgetSpent,
        Self::InvalidQuery,
        Self::Internal,
    ];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidApiKey => "invalid_api_key",
            Self::UnknownUrl => "unknown_url",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::WebsocketUnsupported => "websocket_unsupported",
            Self::ModelNotFound => "model_not_found",
            Self::UnknownId => "unknown_id",
            Self::PreviousResponseNotFound => "previous_response_not_found",
            Self::ConflictingState => "conflicting_state",
            Self::StateLost => "state_lost",
            Self::StateUnavailable => "state_unavailable",
            Self::AffinityUnavailable => "affinity_unavailable",
            Self::UnsupportedEndpoint => "unsupported_endpoint",
            Self::ModelRequired => "missing_required_parameter",
            Self::InvalidModel => "invalid_model",
            Self::UnpricedModel => "unpriced_model",
            Self::InvalidJson => "invalid_json",
            Self::TooManyReferences => "too_many_references",
            Self::RepeatedField => "repeated_field",
            Self::RequestTooLarge => "request_too_large",
            Self::UpstreamLimit => "upstream_request_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RepeatedHeader => "repeated_header",
            Self::UnsupportedEncoding => "unsupported_content_encoding",
            Self::InvalidEncoding => "invalid_content_encoding",
            Self::RequestTimeout => "request_timeout",
            Self::RequestAborted => "request_aborted",
            Self::InvalidFraming => "invalid_framing",
            Self::HeadTooLarge => "head_too_large",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamDisconnected => "upstream_disconnected",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamAuth => "upstream_auth",
            Self::UpstreamBadAnswer => "upstream_bad_answer",
            Self::UpstreamBusy => "upstream_busy",
            Self::GatewayOverloaded => "gateway_overloaded",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::LimitsUnavailable => "limits_unavailable",
            Self::KeysUnavailable => "keys_unavailable",
            // Clients know one code for all of them.
            Self::RequestLimit | Self::TokenLimit | Self::InFlightLimit | Self::BudgetReserved => "rate_limit_exceeded",
            Self::BudgetSpent => "insufficient_quota",
            Self::InvalidQuery => "invalid_query",
            Self::Internal => "internal_error",
        }
    }
}
