//! What makes a request go on to another candidate, and whose fault an error answer is.

/// `[[upstreams]] error_rules`. A rule matches an answer that has everything the rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// HTTP status of the answer; none = any error.
    pub status: Option<u16>,
    /// `error.code`, or `code` at the top level, or the type of an answer without a code; none = any.
    pub code: Option<String>,
    /// `error.type`, or `type` at the top level; none = any.
    pub kind: Option<String>,
    /// Texts, one of which is in the message, in any letter case; empty = any message.
    pub words: Vec<String>,
    /// Whose fault it is.
    pub fault: FaultOwner,
}

/// Whose fault an upstream's error answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOwner {
    /// Our credential: the client sees 502 `upstream_auth`.
    Credential,
    /// The money of our account: the same for the client.
    Balance,
    /// The request: the client sees the answer as it is.
    Request,
    /// The upstream does not have the model: the next target is asked, and nothing is counted.
    Model,
    /// The upstream: the next candidate is asked, and the fault counts.
    Upstream,
}

/// `failover_on`: what makes us ask another candidate although this one received the request and may bill for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverOn {
    /// The connection ended before an answer began.
    pub disconnect: bool,
    /// No answer began in time.
    pub timeout: bool,
    /// A success that ended before the first byte of its body.
    pub empty: bool,
}
