//! What came of an attempt, and who made it.

use std::time::Duration;

use super::tally::KeyId;

/// What came of an attempt, as far as the health of who was asked is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered, to the end or as long as the client wanted.
    Answered,
    /// It was answered with a no to this request: the upstream works, which says nothing of the credential.
    Declined,
    /// The model is missing there. That counts against no account: clients may ask for any name.
    NoModel,
    /// It failed at the upstream: 5xx, 408, no answer, an answer that broke.
    Failed,
    /// No connection: credentials have nothing to do with that.
    Unreachable,
    /// 429, with its `Retry-After`.
    RateLimited(Option<Duration>),
    /// The credential was refused.
    Refused,
    /// The account's money is spent.
    Unpaid,
    /// A bare 402: the account's money is spent, or the request costs more than is left.
    Payment,
}

/// What one request has given already: of each kind its first verdict counts, wherever it is asked next. What fails
/// everywhere is the request's fault in all but one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedVerdicts {
    fault: bool,
    limit: bool,
    refusal: bool,
}

impl ReportedVerdicts {
    /// Nothing yet.
    pub const NOTHING: Self = Self { fault: false, limit: false, refusal: false };

    /// Notes a verdict.
    pub fn note(&mut self, verdict: Verdict) {
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
            // No client can make a connection fail.
            Verdict::Unreachable | Verdict::Answered | Verdict::Declined | Verdict::NoModel => None,
        }
    }
}

/// Who asks for a place, and for what.
#[derive(Clone, Copy, Debug)]
pub struct AttemptContext<'a> {
    /// The client key.
    pub key: KeyId,
    /// The model, by its name at the upstream; "" = the request names none.
    pub model: &'a str,
    /// What the request has given already.
    pub given: ReportedVerdicts,
}
