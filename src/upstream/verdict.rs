//! The result of an attempt, and the context in which an attempt is made.

use std::time::Duration;

use super::failure_counts::KeyId;

/// How an attempt at an upstream ended, for the health states of the upstream and of the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream answered, to the end or as long as the client read.
    Answered,
    /// The upstream works and declined this request. That says nothing about the credential.
    Declined,
    /// The upstream lacks the model. That counts against no account: clients may send any name.
    NoModel,
    /// The upstream failed: 5xx, 408, no answer, or a broken answer.
    Failed,
    /// No connection was made. The credential has no part in that.
    Unreachable,
    /// 429, with its `Retry-After`.
    RateLimited(Option<Duration>),
    /// The upstream refused the credential.
    Refused,
    /// The account's money is spent.
    Unpaid,
    /// A 402 without details: the account's money is spent, or the request costs more than the rest.
    Payment,
}

/// Which kinds of failure one request has already reported against upstreams and credentials. Only the first failure of each kind counts,
/// whichever candidate is attempted next. A request that fails everywhere is itself the cause of all failures but perhaps one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedVerdicts {
    fault: bool,
    limit: bool,
    refusal: bool,
}

impl ReportedVerdicts {
    /// The value for a request that has reported no failure so far.
    pub const NOTHING: Self = Self { fault: false, limit: false, refusal: false };

    /// Records that the request has reported a failure of this kind, so that its next failure of the kind does not count against another
    /// candidate.
    pub fn remember(&mut self, verdict: Verdict) {
        if let Some(given) = self.of(verdict) {
            *given = true;
        }
    }

    pub(super) fn has(mut self, verdict: Verdict) -> bool {
        self.of(verdict).is_some_and(|given| *given)
    }

    fn of(&mut self, verdict: Verdict) -> Option<&mut bool> {
        match verdict {
            Verdict::Failed => Some(&mut self.fault),
            Verdict::RateLimited(_) => Some(&mut self.limit),
            Verdict::Refused | Verdict::Unpaid | Verdict::Payment => Some(&mut self.refusal),
            // No client can cause a failed connection.
            Verdict::Unreachable | Verdict::Answered | Verdict::Declined | Verdict::NoModel => None,
        }
    }
}

/// What a slot for an attempt depends on: the client key, the model's name at the upstream, and the failures that the request reported
/// before.
#[derive(Clone, Copy, Debug)]
pub struct AttemptContext<'a> {
    /// The client key.
    pub key: KeyId,
    /// The model's name at the upstream; "" = the request names none.
    pub model: &'a str,
    /// The verdicts that the request has reported already.
    pub given: ReportedVerdicts,
}
