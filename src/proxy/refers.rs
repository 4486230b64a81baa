//! What a request refers to, and what the memory says of each.

use std::{collections::HashSet, time::Duration};

use super::{Proxy, error::ApiError, forward::Admitted};
use crate::{
    affinity::{LookedUpReference, Recalled, ReferenceRole},
    domain::{
        endpoint::Resource,
        origin::{Kind, Reference},
    },
    protocol::references::{
        query,
        request::{MOST_LOOKED_UP, ReferenceUse, RequestReference},
    },
};

/// A reference of a request, and where it stands.
#[derive(Clone, Copy)]
pub(super) struct LocatedReference<'b> {
    pub(super) kind: Kind,
    role: ReferenceRole,
    /// None where it can name nothing that is known.
    reference: Option<Reference>,
    /// Its field in the body; none where it stands in the URL.
    pub(super) used: Option<&'b RequestReference>,
    /// The store is worth a question.
    is_asked: bool,
}

/// All that a request refers to: in the path, in the query, then in the body.
pub(super) fn refers<'b>(admitted: &'b Admitted, resource: &Resource<'_>) -> Vec<LocatedReference<'b>> {
    let path = resource.names().enumerate().map(|(place, (kind, id))| LocatedReference {
        kind,
        role: if place == 0 { ReferenceRole::LookedUp } else { ReferenceRole::Within },
        reference: Some(Reference::new(kind, id.as_bytes())),
        used: None,
        is_asked: true,
    });
    let query = query::references(admitted.query(), resource.endpoint.has_ids());
    let query = query.into_iter().map(|used| {
        let role = if used.is_cursor { ReferenceRole::Within } else { ReferenceRole::Perhaps };
        LocatedReference { kind: used.kind, role, reference: Some(used.reference), used: None, is_asked: true }
    });
    let used = admitted.received.state.iter().flat_map(|state| &state.references);
    path.chain(query).chain(used.map(LocatedReference::from)).collect()
}

impl<'b> From<&'b RequestReference> for LocatedReference<'b> {
    fn from(used: &'b RequestReference) -> Self {
        let role = match used.uses {
            ReferenceUse::LookedUp => ReferenceRole::LookedUp,
            ReferenceUse::Perhaps | ReferenceUse::Hardly => ReferenceRole::Perhaps,
            ReferenceUse::Whole => ReferenceRole::Whole,
        };
        let is_asked = matches!(used.uses, ReferenceUse::LookedUp | ReferenceUse::Perhaps);
        Self { kind: used.kind, role, reference: used.reference, used: Some(used), is_asked }
    }
}

impl LocatedReference<'_> {
    /// Words for an error: the field, or what the path names.
    pub(super) fn words(&self) -> &'static str {
        match self.used {
            Some(RequestReference { name: Some(name), .. }) if *name != "id" => name,
            _ => self.kind.name(),
        }
    }
}

/// What the memory says of each. The store is not asked for the ids of whole items, on which nothing depends, nor for words that only look
/// like ids. Of encrypted content it is asked for the last, as a conversation goes on at its end.
///
/// # Errors
/// When more than [`MOST_LOOKED_UP`] objects are looked up by the upstream. What it only may look up is asked for in portions of as many.
pub(super) async fn recall(
    proxy: &Proxy,
    admitted: &Admitted,
    refers: &[LocatedReference<'_>],
) -> Result<Vec<LookedUpReference>, ApiError> {
    let has_to_be_asked = |refers: &LocatedReference<'_>| refers.is_asked && refers.kind != Kind::Encrypted;
    let count = |is_counted: &dyn Fn(&LocatedReference<'_>) -> bool| {
        let counted = refers.iter().filter(|refers| has_to_be_asked(refers) && is_counted(refers));
        counted.map(|refers| refers.reference).collect::<HashSet<_>>().len()
    };
    if count(&|refers| refers.role != ReferenceRole::Perhaps) > MOST_LOOKED_UP {
        return Err(ApiError::too_many_references());
    }
    let mut left = MOST_LOOKED_UP.saturating_sub(count(&|_| true));
    let mut is_asked: Vec<bool> = refers.iter().map(has_to_be_asked).collect();
    for (asked, refers) in is_asked.iter_mut().zip(refers).rev() {
        if !*asked && refers.is_asked && left > 0 {
            left -= 1;
            *asked = true;
        }
    }
    let of = |wanted: bool| -> Vec<Reference> {
        let each = refers.iter().zip(&is_asked).filter(|(_, asked)| **asked == wanted);
        each.filter_map(|(refers, _)| refers.reference).collect()
    };
    let (owner, now) = (admitted.caller.owner, Duration::from_millis(proxy.now()));
    let mut here = proxy.origins.recall_here(&of(false), owner, now).into_iter();
    let mut asked = Vec::new();
    for portion in of(true).chunks(MOST_LOOKED_UP) {
        asked.extend(proxy.origins.recall_all(portion, owner, now).await);
    }
    let mut asked = asked.into_iter();
    let is_down = proxy.origins.is_down();
    let named = |(refers, is_asked): (&LocatedReference<'_>, &bool)| {
        let recalled = if *is_asked { &mut asked } else { &mut here };
        let recalled = refers.reference.and_then(|_| recalled.next()).unwrap_or(Recalled::Unknown);
        // A store that is down holds up no request for what only may be looked up. A key that asks too much, so that the answer
        // comes too late, shall not get an id through by that.
        let role = match (refers.role, recalled) {
            (ReferenceRole::Perhaps, Recalled::CannotTell(None)) if !is_down => ReferenceRole::LookedUp,
            (role, _) => role,
        };
        LookedUpReference { kind: refers.kind, role, recalled }
    };
    Ok(refers.iter().zip(&is_asked).map(named).collect())
}
