//! Whether an upstream or a credential may be asked now: plain data, from the part that keeps watch to the part that
//! chooses.

use std::{cmp::Ordering, time::Duration};

/// How something that can be passed by stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing is held against it.
    #[default]
    InService,
    /// Its time out is over: one request may probe it.
    Probation(EjectionCause),
    /// It is passed by.
    Out {
        /// Why.
        cause: EjectionCause,
        /// For how much longer; zero = a probe is under way.
        left: Duration,
    },
}

/// Why something is passed by. The names are fixed: log field `cause`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EjectionCause {
    /// It answered 429.
    RateLimited,
    /// It failed too often.
    Faults,
    /// The upstream refused the credential for the first time: a second proof is asked for.
    RefusedOnce,
    /// The upstream refused the credential for certain.
    Refused,
    /// The account's money is spent.
    Unpaid,
}

impl EjectionCause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::RateLimited, Self::Faults, Self::RefusedOnce, Self::Refused, Self::Unpaid];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Faults => "faults",
            Self::RefusedOnce => "refused_once",
            Self::Refused => "refused",
            Self::Unpaid => "unpaid",
        }
    }

    /// Whether the credential or its account was refused, so that only a success tells that it serves again.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::RefusedOnce | Self::Refused | Self::Unpaid)
    }
}

impl HealthState {
    /// Whether a request may go there without need.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Out { .. })
    }

    /// What holds for something that needs both: the worse of the two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.badness(&other) == Ordering::Less { other } else { self }
    }

    /// Which of two is the worse place to go where somebody has to: a refused credential will most probably be refused
    /// again, the others may have come back, the sooner their time is over.
    pub fn badness(&self, other: &Self) -> Ordering {
        let rank = |standing: &Self| match *standing {
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
    fn the_worse_of_two_holds() {
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
