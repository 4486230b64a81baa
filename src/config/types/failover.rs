//! What causes a failover, and who caused an error answer.

/// One rule of `[[upstreams]] error_rules`, which says who caused an upstream's error answer. A rule matches an answer if all
/// parts that the rule names match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// HTTP status of the answer; none = any error.
    pub status: Option<u16>,
    /// `error.code`, or `code` at the top level, or the type of an answer without a code; none = any.
    pub code: Option<String>,
    /// `error.type`, or `type` at the top level; none = any.
    pub kind: Option<String>,
    /// Texts; one of them must be in the message, in any letter case. Empty = any message.
    pub words: Vec<String>,
    /// Who caused the error.
    pub fault: FaultOwner,
}

/// Who caused an upstream's error answer: for example the credential, the request or the upstream. Decides what Tidegate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOwner {
    /// Tidegate's credential: the client gets 502 `upstream_auth`.
    Credential,
    /// The account's balance: the client gets the same error as for `Credential`.
    Balance,
    /// The request: the client gets the answer unchanged.
    Request,
    /// The upstream does not have the model: Tidegate attempts the next target and counts no fault.
    Model,
    /// The upstream: Tidegate attempts the next candidate and counts a fault.
    Upstream,
}

/// Setting `failover_on` of an upstream: failures that cause a failover although this upstream received the request and may bill for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverOn {
    /// The connection ended before the answer began.
    pub disconnect: bool,
    /// No answer began before the timeout.
    pub timeout: bool,
    /// A success that ended before the first byte of its body.
    pub empty: bool,
}
