//! Health state of an upstream or a credential: plain data that the health checks write and that routing reads.

use std::{cmp::Ordering, time::Duration};

/// Health state of an upstream or a credential at one moment: in service, half-open or ejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// In service: requests may use the upstream or credential.
    #[default]
    InService,
    /// Half-open: the cooldown is over, and one request may probe the upstream or credential.
    Probation(EjectionCause),
    /// Ejected: requests skip the upstream or credential.
    Out {
        /// Why the upstream or credential is ejected.
        cause: EjectionCause,
        /// Rest of the cooldown; zero = a probe is in progress.
        left: Duration,
    },
}

/// Why an upstream or a credential is ejected. The names are fixed: log field `cause`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EjectionCause {
    /// The upstream answered 429.
    RateLimited,
    /// Attempts failed too often.
    Faults,
    /// The upstream refused the credential for the first time. A second refusal has to confirm that the credential is bad.
    RefusedOnce,
    /// The upstream refused the credential again: the refusal is confirmed.
    Refused,
    /// The account's balance is spent.
    Unpaid,
}

impl EjectionCause {
    /// All causes for which an upstream or a credential can be ejected.
    pub const ALL: [Self; 5] = [Self::RateLimited, Self::Faults, Self::RefusedOnce, Self::Refused, Self::Unpaid];

    /// The fixed name of the cause of an ejection, such as `rate_limited`: log field `cause`, metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Faults => "faults",
            Self::RefusedOnce => "refused_once",
            Self::Refused => "refused",
            Self::Unpaid => "unpaid",
        }
    }

    /// Whether an ejection has this cause because the upstream refused the credential or its account. Only a successful request
    /// then ends the ejection.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::RefusedOnce | Self::Refused | Self::Unpaid)
    }
}

impl HealthState {
    /// Whether an upstream or credential in this health state is not ejected. Ejected ones are used only if no other candidate
    /// exists.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Out { .. })
    }

    /// The health state of a candidate, from the health states of its upstream and of its credential: the worse of the two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.badness(&other) == Ordering::Less { other } else { self }
    }

    /// Compares two health states for a request that has only ejected candidates: the greater state is the worse choice. A
    /// refused credential will most probably be refused again. Other ejected candidates may work again, the sooner their cooldown
    /// ends.
    pub fn badness(&self, other: &Self) -> Ordering {
        let rank = |state: &Self| match *state {
            Self::InService => (0, Duration::ZERO),
            Self::Probation(_) => (1, Duration::ZERO),
            Self::Out { cause, left } if cause.is_refusal() => (3, left),
            Self::Out { left, .. } => (2, left),
        };
        rank(self).cmp(&rank(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_states_applies() {
        let out = |cause, left| HealthState::Out { cause, left: Duration::from_secs(left) };
        let in_order = [
            HealthState::InService,
            HealthState::Probation(EjectionCause::Faults),
            out(EjectionCause::RateLimited, 1),
            out(EjectionCause::Faults, 30),
            out(EjectionCause::Refused, 2),
        ];
        for (i, better) in in_order.iter().enumerate() {
            for worse in &in_order[i..] {
                assert_eq!((better.and(*worse), worse.and(*better)), (*worse, *worse));
            }
        }
    }
}
