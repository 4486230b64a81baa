//! All errors that Tidegate itself answers, with their fixed names. The name is `error.code` on the wire, the field `problem` in
//! the log, and a label in the metrics.

/// Kind of an error that Tidegate itself answers, such as an unknown key or a spent budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// The request has no bearer key, or the key is not known.
    InvalidApiKey,
    /// Tidegate has no such path.
    UnknownUrl,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The request is a WebSocket upgrade, which Tidegate does not support.
    WebsocketUnsupported,
    /// The model does not exist, or this key may not use the model: the client cannot tell which.
    ModelNotFound,
    /// No response, conversation or item has this id, or this key may not use the object: the client cannot tell which.
    UnknownId,
    /// `previous_response_id` names no response, or none that this key may use: the client cannot tell which.
    PreviousResponseNotFound,
    /// The request refers to state in several accounts.
    ConflictingState,
    /// The request refers to state in an account that is no longer configured.
    StateLost,
    /// The request refers to state in an account, and the upstream refuses every credential of that account now.
    StateUnavailable,
    /// Tidegate cannot know now which account has the state.
    AffinityUnavailable,
    /// The endpoint exists, but no upstream that could serve the request has the endpoint.
    UnsupportedEndpoint,
    /// The body has no `model`, and no default upstream is configured.
    ModelRequired,
    /// `model` is not a string, or not a valid model name.
    InvalidModel,
    /// The key has a budget, and a target of the model has no price.
    UnpricedModel,
    /// The body is not one JSON object.
    InvalidJson,
    /// The body refers to more stored objects than Tidegate looks up for one request.
    TooManyReferences,
    /// A field that Tidegate reads occurs twice, or in another letter case.
    RepeatedField,
    /// The body is larger than `max_body_mib`.
    RequestTooLarge,
    /// The body is larger than the upstream accepts.
    UpstreamLimit,
    /// The `Content-Type` is not JSON in UTF-8.
    UnsupportedMediaType,
    /// A header that may occur once, such as `Content-Type`, occurs twice.
    RepeatedHeader,
    /// Tidegate does not support the `Content-Encoding`.
    UnsupportedEncoding,
    /// The body does not decode with its `Content-Encoding`.
    InvalidEncoding,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The client closed the connection inside its body.
    RequestAborted,
    /// The framing of the request is ambiguous: servers could disagree where its head or its body ends.
    InvalidFraming,
    /// The head of the request is too large.
    HeadTooLarge,
    /// Tidegate could not connect to the upstream.
    UpstreamUnreachable,
    /// The upstream closed the connection before it answered.
    UpstreamDisconnected,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream refused Tidegate's credential.
    UpstreamAuth,
    /// The upstream answered with a redirect, with a web page in place of an API answer, or with something other than HTTP.
    UpstreamBadAnswer,
    /// Every candidate has reached its maximum number of requests in progress.
    UpstreamBusy,
    /// All request bodies together are larger than `max_body_memory_mib`.
    GatewayOverloaded,
    /// The ledger cannot record the request now.
    LedgerUnavailable,
    /// The use of the limits is not known now, and `fail = "closed"` is set.
    LimitsUnavailable,
    /// The keys in the store cannot be read, so Tidegate cannot tell whether this key is one of them.
    KeysUnavailable,
    /// The key or its group has used all its requests per minute.
    RequestLimit,
    /// The key or its group has used all its tokens per minute.
    TokenLimit,
    /// The key or its group has reached its maximum number of requests in progress.
    InFlightLimit,
    /// Requests in progress have reserved the rest of the budget of the key or its group.
    BudgetReserved,
    /// The key or its group has spent its budget.
    BudgetSpent,
    /// A parameter in the query of the URL is not valid.
    InvalidQuery,
    /// A fault inside Tidegate.
    Internal,
}

impl Problem {
    /// All kinds of errors that Tidegate itself answers.
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

    /// The fixed name of the error that Tidegate answers: `error.code` on the wire, field `problem` in the log, metric label.
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
            // Clients know this one code for all four.
            Self::RequestLimit | Self::TokenLimit | Self::InFlightLimit | Self::BudgetReserved => "rate_limit_exceeded",
            Self::BudgetSpent => "insufficient_quota",
            Self::InvalidQuery => "invalid_query",
            Self::Internal => "internal_error",
        }
    }
}
