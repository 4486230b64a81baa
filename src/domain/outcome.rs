//! How one request ended: the record that every sink (log, metrics; later the ledger) is fed from.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{
    endpoint::Endpoint,
    id::RequestId,
    money::Exchange,
    origin::Kind,
    price::Tariff,
    problem::Problem,
    usage::{Habit, Hidden, PolledUsage, Usage, UsageEstimate},
};

/// Why a request is over. The names are fixed: log field `end`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The whole answer went out: a terminal event was seen, or the whole JSON answer.
    Completed,
    /// The provider said `response.failed`, or sent an `error` event.
    ResponseFailed,
    /// The provider said `response.incomplete`.
    ResponseIncomplete,
    /// A stream ended cleanly without a terminal event.
    Incomplete,
    /// The provider answered with an error, passed on as it was.
    UpstreamError,
    /// The upstream's transfer broke inside the answer.
    UpstreamBroken,
    /// The upstream was silent for too long inside the answer.
    UpstreamStalled,
    /// The client left before the end.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// Tidegate answered with an error of its own.
    Refused,
    /// Tidegate stopped before the answer was out.
    GatewayStop,
}

impl EndReason {
    /// All of them.
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

    /// Its fixed name.
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

/// One try at one upstream.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// Name of the credential, if one was sent.
    pub credential: Option<Arc<str>>,
    /// What came of it.
    pub result: AttemptResult,
    /// From sending to the head of the answer, or to the fault.
    pub took: Duration,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The upstream answered with this status.
    Status(StatusCode),
    /// It did not answer.
    Fault(Problem),
    /// The client left before it did.
    Abandoned,
}

/// What is known of a request that was refused before any endpoint served it: a key that may not be used, or a URL that is not
/// there. For the log only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedRequest {
    /// Name of a key that is known.
    pub key: Option<Arc<str>>,
    /// Why the key was refused: `unknown`, `disabled`, `expired`, `network`, and so on.
    pub reason: Option<&'static str>,
    /// The first characters of a key that is not known: too few to be of use to another person.
    pub key_begins: Option<Box<str>>,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// Method of a request for a URL that is not there.
    pub method: Option<Method>,
    /// The beginning of its path, without the query.
    pub path: Option<Box<str>>,
}

/// The record of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Our id.
    pub id: RequestId,
    /// What was asked for; none for what Tidegate answers by itself.
    pub endpoint: Option<Endpoint>,
    /// Why it is over.
    pub end: EndReason,
    /// The error of ours that the client got, if any.
    pub problem: Option<Problem>,
    /// What the log says of a request that no endpoint served.
    pub rejected: Option<Box<RejectedRequest>>,
    /// Status that the client got; none where it left first.
    pub status: Option<StatusCode>,
    /// Name of the client key, once it was known.
    pub key: Option<Arc<str>>,
    /// Name of the key's group, if it has one.
    pub group: Option<Arc<str>>,
    /// What it was thought to use, once its body was read.
    pub estimate: Option<UsageEstimate>,
    /// What its model costs at the upstream that was asked last, if that is known.
    pub price: Option<Tariff>,
    /// How currencies were exchanged when that was looked up.
    pub exchange: Exchange,
    /// The price as text, where the usage is told later.
    pub terms: Option<Box<str>>,
    /// The model as asked, once it was known to be configured.
    pub model: Option<Arc<str>>,
    /// What bound it to the account that holds its state, if anything did.
    pub pinned: Option<Kind>,
    /// It went without its encrypted reasoning, as its account could not be asked.
    pub stripped: bool,
    /// The model as sent up.
    pub upstream_model: Option<Arc<str>>,
    /// Tries in order.
    pub attempts: Vec<Attempt>,
    /// The upstream's own request id.
    pub upstream_request_id: Option<Arc<str>>,
    /// Id of the response.
    pub response_id: Option<Box<str>>,
    /// The response that the path names.
    pub named: Option<Box<str>>,
    /// Asked to be made in the background.
    pub background: bool,
    /// It is made in the background, and was not over as far as its answer was seen.
    pub goes_on: bool,
    /// What was seen of the tokens of the response that the path names.
    pub shown: Option<PolledUsage>,
    /// `error.code` or `error.type` of the provider, if it is a short identifier.
    pub upstream_code: Option<Box<str>>,
    /// Token counts as reported.
    pub usage: Usage,
    /// They were told inside a stream whose end was not seen: more may have followed.
    pub so_far: bool,
    /// Whether the answer was an event stream.
    pub streamed: bool,
    /// Events seen in it.
    pub events: u64,
    /// Tokens of the output's text that passed, by its bytes.
    pub text_tokens: u64,
    /// Output passed that is no text, as an image.
    pub other_output: bool,
    /// What was told of reasoning that did not pass as text.
    pub hidden: Hidden,
    /// How long the model was at work on reasoning, as far as the answer told it.
    pub thought_for: Duration,
    /// What answers of its key and model had of late.
    pub habit: Habit,
    /// All of the answer was seen.
    pub whole: bool,
    /// An answer came, and held neither output nor tokens: no model did anything.
    pub made_nothing: bool,
    /// Bytes of the body as it was read, decoded.
    pub bytes_up: u64,
    /// Bytes of the answer's body handed to the client's connection.
    pub bytes_down: u64,
    /// Bytes of it that were read after the client left.
    pub bytes_drained: u64,
    /// From the request's head to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// From the request's head to the end.
    pub took: Duration,
}

impl Outcome {
    /// The record of a request of which nothing is known yet: should nobody say more, its client left.
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
            goes_on: false,
            shown: None,
            upstream_code: None,
            usage: Usage::default(),
            so_far: false,
            streamed: false,
            events: 0,
            text_tokens: 0,
            other_output: false,
            hidden: Hidden::default(),
            thought_for: Duration::ZERO,
            habit: Habit::default(),
            whole: false,
            made_nothing: false,
            bytes_up: 0,
            bytes_down: 0,
            bytes_drained: 0,
            first_byte: None,
            took: Duration::ZERO,
        }
    }

    /// Bytes of the answer's body that were looked at.
    pub fn bytes_seen(&self) -> u64 {
        self.bytes_down.saturating_add(self.bytes_drained)
    }

    /// Whether it costs nothing, whatever its answer says of tokens.
    pub fn is_free(&self) -> bool {
        self.endpoint.is_some_and(Endpoint::is_free)
    }
}
