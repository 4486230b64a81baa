//! The outcome of one request: the record from which log line, metrics and ledger row are made.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{
    endpoint::Endpoint,
    id::RequestId,
    money::Exchange,
    origin::ReferenceKind,
    price::Tariff,
    problem::Problem,
    usage::{AnswerAverages, HiddenReasoning, PolledUsage, Usage, UsageEstimate},
};

/// Why a request ended. The names are fixed: log field `end`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The client got the whole answer: the whole JSON, or a stream with a terminal event.
    Completed,
    /// The provider sent `response.failed` or an `error` event.
    ResponseFailed,
    /// The provider sent `response.incomplete`.
    ResponseIncomplete,
    /// A stream ended cleanly without a terminal event.
    Incomplete,
    /// The provider answered with an error, which the client got unchanged.
    UpstreamError,
    /// The connection to the upstream broke inside the answer.
    UpstreamBroken,
    /// The upstream was silent for too long inside the answer.
    UpstreamStalled,
    /// The client left before the end.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// Tidegate answered with an error of its own.
    Refused,
    /// Tidegate stopped before the client got the whole answer.
    GatewayStop,
}

impl EndReason {
    /// All reasons why a request can end.
    pub const ALL: [Self; 11] = [
        Self::Completed,
        Self::ResponseFailed,
        Self::ResponseIncomplete,
        Self::Incomplete,
        Self::UpstreamError,
        Self::UpstreamBroken,
        Self::UpstreamStalled,
        Self::ClientGone,
        Self::ClientStalled,
        Self::Refused,
        Self::GatewayStop,
    ];

    /// The fixed name of the reason why a request ended, such as `completed`: log field `end`, metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ResponseFailed => "response_failed",
            Self::ResponseIncomplete => "response_incomplete",
            Self::Incomplete => "incomplete",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamStalled => "upstream_stalled",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::Refused => "refused",
            Self::GatewayStop => "gateway_stop",
        }
    }
}

/// The record of one attempt to send a request to an upstream: the upstream, the credential, the result and the duration.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// Name of the credential, if one was sent.
    pub credential: Option<Arc<str>>,
    /// Result of the attempt.
    pub result: AttemptResult,
    /// Time from the start of the attempt to the head of the answer, or to the fault.
    pub took: Duration,
}

/// Result of one attempt to send a request to an upstream: a status, a fault, or the client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The upstream answered with this status.
    Status(StatusCode),
    /// The attempt failed without an answer that Tidegate can use.
    Fault(Problem),
    /// The client left before the upstream answered.
    Abandoned,
}

/// Details of a request that Tidegate refused before any endpoint served it, because of its key or its URL. For the log only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedRequest {
    /// Name of the key, where the key is known.
    pub key: Option<Arc<str>>,
    /// Why the key was refused: `unknown`, `disabled`, `expired`, `network`, and so on.
    pub reason: Option<&'static str>,
    /// The first characters of an unknown key: too few to be useful to a reader of the log.
    pub key_begins: Option<Box<str>>,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// Method of a request for an unknown URL.
    pub method: Option<Method>,
    /// The beginning of the request's path, without the query.
    pub path: Option<Box<str>>,
}

/// Everything that Tidegate records about one request. The log line, the metrics and the ledger row are made from this record.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Tidegate's id of the request.
    pub id: RequestId,
    /// The requested endpoint; none for requests that Tidegate answers itself.
    pub endpoint: Option<Endpoint>,
    /// Why the request ended.
    pub end: EndReason,
    /// Tidegate's own error that the client got, if any.
    pub problem: Option<Problem>,
    /// Log details of a request that no endpoint served.
    pub rejected: Option<Box<RejectedRequest>>,
    /// Status that the client got; none where the client left first.
    pub status: Option<StatusCode>,
    /// Name of the client's key, once the key was recognized.
    pub key: Option<Arc<str>>,
    /// Name of the key's group, if it has one.
    pub group: Option<Arc<str>>,
    /// Estimated usage, once the body was read.
    pub estimate: Option<UsageEstimate>,
    /// Tariff of the model at the upstream of the last attempt, if the model has a price there.
    pub price: Option<Tariff>,
    /// The exchange rate when the tariff was looked up.
    pub exchange: Exchange,
    /// The tariff as text, where the usage is reported later.
    pub terms: Option<Box<str>>,
    /// The model that the client requested, once the model was found in the configuration.
    pub model: Option<Arc<str>>,
    /// Kind of the reference that pinned the request to an account, if any.
    pub pinned: Option<ReferenceKind>,
    /// The request was sent without its encrypted reasoning, because the account of that reasoning was not available.
    pub stripped: bool,
    /// The model name that was sent upstream.
    pub upstream_model: Option<Arc<str>>,
    /// Attempts in order.
    pub attempts: Vec<Attempt>,
    /// The upstream's own request id.
    pub upstream_request_id: Option<Arc<str>>,
    /// Id of the response.
    pub response_id: Option<Box<str>>,
    /// Id of the response that the path names.
    pub named: Option<Box<str>>,
    /// The request asks for a background response.
    pub background: bool,
    /// The answer is a background response that was not finished when its answer ended.
    pub continues_in_background: bool,
    /// Usage of the background response that the path names, where the answer showed the usage.
    pub shown: Option<PolledUsage>,
    /// `error.code` or `error.type` of the provider, if it is a short identifier.
    pub upstream_code: Option<Box<str>>,
    /// Usage that the provider reported.
    pub usage: Usage,
    /// The usage was reported inside a stream without a terminal event: the real usage may be larger.
    pub usage_may_grow: bool,
    /// Whether the answer was an event stream.
    pub streamed: bool,
    /// Number of events in the stream.
    pub events: u64,
    /// Output tokens of the text that passed, estimated from its bytes.
    pub text_tokens: u64,
    /// The answer had output other than text, such as an image.
    pub other_output: bool,
    /// What the answer shows of reasoning that did not pass as text.
    pub hidden: HiddenReasoning,
    /// Time that the model spent on reasoning, as far as the answer shows it.
    pub thought_for: Duration,
    /// What recent answers of the same key and model had.
    pub answer_averages: AnswerAverages,
    /// Tidegate read the whole answer.
    pub whole: bool,
    /// The answer had neither output nor tokens: no model worked.
    pub is_empty_answer: bool,
    /// Bytes of the request's body, decoded.
    pub bytes_up: u64,
    /// Bytes of the answer's body that were passed to the client's connection.
    pub bytes_down: u64,
    /// Bytes of the answer's body that were read after the client left.
    pub bytes_drained: u64,
    /// Time from the request's head to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// Time from the request's head to the end.
    pub took: Duration,
}

impl Outcome {
    /// The record of a request that just arrived. Its end reason is `ClientGone` until another reason is set.
    pub fn new(id: RequestId) -> Self {
        Self {
            id,
            endpoint: None,
            end: EndReason::ClientGone,
            problem: None,
            rejected: None,
            status: None,
            key: None,
            group: None,
            estimate: None,
            price: None,
            exchange: Exchange::default(),
            terms: None,
            model: None,
            pinned: None,
            stripped: false,
            upstream_model: None,
            attempts: Vec::new(),
            upstream_request_id: None,
            response_id: None,
            named: None,
            background: false,
            continues_in_background: false,
            shown: None,
            upstream_code: None,
            usage: Usage::default(),
            usage_may_grow: false,
            streamed: false,
            events: 0,
            text_tokens: 0,
            other_output: false,
            hidden: HiddenReasoning::default(),
            thought_for: Duration::ZERO,
            answer_averages: AnswerAverages::default(),
            whole: false,
            is_empty_answer: false,
            bytes_up: 0,
            bytes_down: 0,
            bytes_drained: 0,
            first_byte: None,
            took: Duration::ZERO,
        }
    }

    /// Bytes of the answer's body that Tidegate read: bytes passed to the client, and bytes read after the client left.
    pub fn bytes_seen(&self) -> u64 {
        self.bytes_down.saturating_add(self.bytes_drained)
    }

    /// Whether the request costs nothing because of its endpoint, even if its answer reports tokens.
    pub fn is_free(&self) -> bool {
        self.endpoint.is_some_and(Endpoint::is_free)
    }
}
