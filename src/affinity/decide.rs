//! Decides the destination of a request that refers to state. Pure: the caller passes in the result of each lookup.
//!
//! | result of the lookup | looked up upstream | perhaps looked up | id of a complete item | `encrypted_content`, a prompt |
//! | --- | --- | --- | --- | --- |
//! | the caller's, or the caller's group's | pins | leans | leans | pins |
//! | another owner's | rejects, like an unknown id | rejects | nothing | pins: keys rotate, and the text is the proof |
//! | never seen | rejects, or nothing, as `unknown_ids` says | nothing | nothing | nothing |
//! | the lookup failed | no answer now, or nothing, as `unknown_ids` says | nothing | nothing | nothing |
//!
//! A request that leans goes first to its account, where its model has a target there, because the account caches the prompt.
//! Any account can answer such a request, so a lean never prevents failover. If a history leans to several accounts, as
//! failover leaves it, no account comes first.

use super::Recalled;
use crate::domain::origin::ReferenceKind;

/// A reference (an id of state) in a request, with what the affinity memory knows about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedUpReference {
    /// The kind of the object.
    pub kind: ReferenceKind,
    /// What the upstream does with the reference.
    pub role: ReferenceRole,
    /// The result of the lookup.
    pub recalled: Recalled,
}

/// What an upstream does with an id in a request: looks it up, perhaps looks it up, or ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceRole {
    /// The upstream looks the id up.
    LookedUp,
    /// The upstream may look the value up: the value resembles an id, in a field without a known meaning.
    Perhaps,
    /// Nothing, because it is the id of a complete item.
    Whole,
    /// The upstream looks the id up inside another object of the request, and that object decides the destination.
    Within,
}

/// Where a request that names state may go: to one account only, to any, or nowhere. Numbers are positions in the list of references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same destination as without references.
    Free,
    /// Only this account.
    Pinned {
        /// The account's number.
        account: u64,
        /// The first reference that pins.
        by: usize,
    },
    /// The same destination as without references, with this account first.
    Leaning(u64),
    /// No destination: these two references pin different accounts.
    Conflict(usize, usize),
    /// No destination: this reference does not exist for the caller.
    Unknown(usize),
    /// No destination now: a lookup failed, so the owner of a reference is unknown.
    LookupFailed,
}

/// The effect of one reference on the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReferenceEffect {
    Nothing,
    Pins(u64),
    Leans(u64),
    Unknown,
    Foreign,
    LookupFailed { foreign: bool },
}

impl LookedUpReference {
    fn effect(&self) -> ReferenceEffect {
        let bound = matches!(self.kind, ReferenceKind::Encrypted | ReferenceKind::Prompt);
        match (self.recalled, self.role) {
            (recalled, _) if bound => recalled
                .origin_of_any_owner()
                .map_or(ReferenceEffect::Nothing, |origin| ReferenceEffect::Pins(origin.account)),
            (Recalled::Own(origin), ReferenceRole::LookedUp) => ReferenceEffect::Pins(origin.account),
            (Recalled::Own(origin), ReferenceRole::Perhaps | ReferenceRole::Whole) => {
                ReferenceEffect::Leans(origin.account)
            }
            (Recalled::Own(_), ReferenceRole::Within) | (_, ReferenceRole::Whole) => ReferenceEffect::Nothing,
            (Recalled::Foreign(_), _) | (Recalled::LookupFailed(Some(_)), ReferenceRole::Perhaps) => {
                ReferenceEffect::Foreign
            }
            (Recalled::Unknown | Recalled::LookupFailed(None), ReferenceRole::Perhaps) => ReferenceEffect::Nothing,
            (Recalled::Unknown, _) => ReferenceEffect::Unknown,
            (Recalled::LookupFailed(others), _) => ReferenceEffect::LookupFailed { foreign: others.is_some() },
        }
    }
}

/// Decides which account may answer a request, from the references in the request. `refuses` returns whether an unknown reference
/// is an error, given the account that pins the request, or `None` without a pin.
pub fn decide(named: &[LookedUpReference], refuses: impl FnOnce(Option<u64>) -> bool) -> Decision {
    let mut pinned: Option<(u64, usize)> = None;
    let (mut leans, mut agree) = (None, true);
    for (index, named) in named.iter().enumerate() {
        match (named.effect(), pinned) {
            (ReferenceEffect::Pins(account), Some((other, by))) if other != account => {
                return Decision::Conflict(by, index);
            }
            (ReferenceEffect::Pins(account), _) => pinned = pinned.or(Some((account, index))),
            (ReferenceEffect::Leans(account), _) => {
                agree &= *leans.get_or_insert(account) == account;
            }
            _ => {}
        }
    }
    let known =
        |effect| matches!(effect, ReferenceEffect::Nothing | ReferenceEffect::Pins(_) | ReferenceEffect::Leans(_));
    let all_known = || named.iter().all(|named| known(named.effect()));
    let refuses = !all_known() && refuses(pinned.map(|(account, _)| account));
    let mut lookup_failed = false;
    for (index, named) in named.iter().enumerate() {
        match named.effect() {
            ReferenceEffect::Foreign => return Decision::Unknown(index),
            ReferenceEffect::Unknown if refuses => return Decision::Unknown(index),
            // A reference of another owner is never sent upstream, also while the store fails.
            ReferenceEffect::LookupFailed { foreign } => lookup_failed |= foreign || refuses,
            _ => {}
        }
    }
    match (pinned, leans.filter(|_| agree)) {
        _ if lookup_failed => Decision::LookupFailed,
        (Some((account, by)), _) => Decision::Pinned { account, by },
        (None, Some(account)) => Decision::Leaning(account),
        (None, None) => Decision::Free,
    }
}

#[cfg(test)]
mod tests {
    use Decision::{Conflict, Free, Leaning, LookupFailed, Pinned, Unknown};

    use super::*;
    use crate::domain::origin::{Origin, Owner};

    const REFUSING: [ReferenceKind; 7] = [
        ReferenceKind::Response,
        ReferenceKind::Conversation,
        ReferenceKind::Item,
        ReferenceKind::File,
        ReferenceKind::VectorStore,
        ReferenceKind::Container,
        ReferenceKind::Skill,
    ];

    fn origin(account: u64) -> Origin {
        Origin { account, owner: Owner::new("somebody", None) }
    }

    fn own(account: u64) -> Recalled {
        Recalled::Own(origin(account))
    }

    fn named(kind: ReferenceKind, role: ReferenceRole, recalled: Recalled) -> LookedUpReference {
        LookedUpReference { kind, role, recalled }
    }

    fn looked_up(kind: ReferenceKind, recalled: Recalled) -> LookedUpReference {
        named(kind, ReferenceRole::LookedUp, recalled)
    }

    /// Where unknown ids are refused, and where they are not.
    fn both(all: &[LookedUpReference]) -> [Decision; 2] {
        [true, false].map(|refuses| decide(all, |_| refuses))
    }

    #[test]
    fn each_reference_has_the_effect_that_the_table_names() {
        let foreign = Recalled::Foreign(origin(7));
        let (away, away_foreign) = (Recalled::LookupFailed(None), Recalled::LookupFailed(Some(origin(7))));
        let pinned = Pinned { account: 7, by: 0 };
        for kind in REFUSING {
            for (recalled, expected) in [
                (own(7), [pinned; 2]),
                (foreign, [Unknown(0); 2]),
                (Recalled::Unknown, [Unknown(0), Free]),
                (away, [LookupFailed, Free]),
                (away_foreign, [LookupFailed; 2]),
            ] {
                assert_eq!(both(&[looked_up(kind, recalled)]), expected, "{kind:?} {recalled:?}");
                let within = if recalled == own(7) { [Free; 2] } else { expected };
                assert_eq!(both(&[named(kind, ReferenceRole::Within, recalled)]), within, "{kind:?} {recalled:?}");
                let whole = if recalled == own(7) { [Leaning(7); 2] } else { [Free; 2] };
                assert_eq!(both(&[named(kind, ReferenceRole::Whole, recalled)]), whole, "{kind:?} {recalled:?}");
                // A value that may be a reference is refused only if it is known to be another owner's.
                let perhaps = match recalled {
                    Recalled::Own(_) => Leaning(7),
                    Recalled::Foreign(_) | Recalled::LookupFailed(Some(_)) => Unknown(0),
                    Recalled::Unknown | Recalled::LookupFailed(None) => Free,
                };
                assert_eq!(
                    both(&[named(kind, ReferenceRole::Perhaps, recalled)]),
                    [perhaps; 2],
                    "{kind:?} {recalled:?}"
                );
            }
        }
        for kind in [ReferenceKind::Encrypted, ReferenceKind::Prompt] {
            for (recalled, expected) in
                [(own(7), pinned), (foreign, pinned), (away_foreign, pinned), (Recalled::Unknown, Free), (away, Free)]
            {
                assert_eq!(both(&[looked_up(kind, recalled)]), [expected; 2], "{kind:?} {recalled:?}");
            }
        }
        assert_eq!(both(&[]), [Free; 2]);
    }

    #[test]
    fn references_agree_on_an_account_or_conflict() {
        let unknown = looked_up(ReferenceKind::File, Recalled::Unknown);
        let all = [
            named(ReferenceKind::Item, ReferenceRole::Whole, Recalled::Unknown),
            looked_up(ReferenceKind::Response, own(1)),
            named(ReferenceKind::Item, ReferenceRole::Within, own(2)),
            named(ReferenceKind::Item, ReferenceRole::Whole, Recalled::Foreign(origin(2))),
            looked_up(ReferenceKind::Encrypted, own(1)),
        ];
        assert_eq!(both(&all), [Pinned { account: 1, by: 1 }; 2]);
        for other in [ReferenceKind::File, ReferenceKind::Encrypted] {
            let with = [&all[..], &[unknown, looked_up(other, own(2))]].concat();
            assert_eq!(both(&with), [Conflict(1, 6); 2]);
        }
        // Complete items agree with any account.
        let whole = |account| named(ReferenceKind::Item, ReferenceRole::Whole, own(account));
        let with = [&all[..], &[whole(2)]].concat();
        assert_eq!(both(&with), [Pinned { account: 1, by: 1 }; 2]);
        assert_eq!(both(&[whole(2), whole(2)]), [Leaning(2); 2]);
        assert_eq!(both(&[whole(2), whole(1), whole(2)]), [Free; 2]);
        assert_eq!(both(&[whole(2), unknown]), [Unknown(1), Leaning(2)]);
        // One that does not exist says more than what cannot be known.
        let with = [looked_up(ReferenceKind::File, Recalled::LookupFailed(None)), unknown];
        assert_eq!(both(&with), [Unknown(1), Free]);
    }

    #[test]
    fn refusal_of_unknown_references_depends_on_the_pinned_account() {
        let (known, unknown) =
            (looked_up(ReferenceKind::Response, own(1)), looked_up(ReferenceKind::File, Recalled::Unknown));
        let goes = |all: &[LookedUpReference]| decide(all, |account| account == Some(1));
        assert_eq!(goes(&[known, unknown]), Unknown(1));
        assert_eq!(goes(&[unknown]), Free);
        let nobody_asks = |all: &[LookedUpReference]| decide(all, |_| unreachable!());
        assert_eq!(nobody_asks(&[known]), Pinned { account: 1, by: 0 });
    }
}
