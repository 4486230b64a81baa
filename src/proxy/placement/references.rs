//! Finds the references of a request and looks them up in the affinity memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    affinity::{LookedUpReference, Recalled, ReferenceRole},
    domain::{
        endpoint::Resource,
        origin::{Reference, ReferenceKind},
    },
    protocol::references::{
        query,
        request::{MOST_LOOKED_UP, ReferenceUse, RequestReference},
    },
    proxy::{error::ApiError, gateway::Proxy, request::admit::Admitted},
};

/// A reference of a request, with its position.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct LocatedReference<'b> {
    pub(in crate::proxy) kind: ReferenceKind,
    role: ReferenceRole,
    /// `None` = no known object can have this text.
    reference: Option<Reference>,
    /// The field of the body. `None` = the reference is in the URL.
    pub(in crate::proxy) used: Option<&'b RequestReference>,
    /// Whether the reference deserves a lookup in the affinity store.
    is_asked: bool,
}

/// Returns all references of a request: first of the path, then of the query, then of the body.
pub(in crate::proxy) fn references_of<'b>(
    admitted: &'b Admitted,
    resource: &Resource<'_>,
    opaque: bool,
) -> Vec<LocatedReference<'b>> {
    let path = resource.names().enumerate().map(|(place, (kind, id))| LocatedReference {
        kind,
        role: if place == 0 { ReferenceRole::LookedUp } else { ReferenceRole::Within },
        reference: Some(Reference::new(kind, id.as_bytes())),
        used: None,
        is_asked: true,
    });
    let query = query::references(admitted.query(), resource.endpoint.has_ids(), opaque);
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
    /// Returns the words for an error: the field, or the kind of the object.
    pub(in crate::proxy) fn words(&self) -> &'static str {
        match self.used {
            Some(RequestReference { name: Some(name), .. }) if *name != "id" => name,
            _ => self.kind.name(),
        }
    }
}

/// Looks up each reference. The store gets no lookup for the ids of complete items, which decide nothing, nor for words that
/// only resemble ids. Of encrypted contents the last ones are looked up, because a conversation continues at its end.
///
/// # Errors
/// When the upstream must look up more than [`MOST_LOOKED_UP`] objects. References that the upstream only may look up are read
/// in portions of that size.
pub(in crate::proxy) async fn look_up(
    proxy: &Proxy,
    admitted: &Admitted,
    references: &[LocatedReference<'_>],
) -> Result<Vec<LookedUpReference>, ApiError> {
    let has_to_be_asked =
        |reference: &LocatedReference<'_>| reference.is_asked && reference.kind != ReferenceKind::Encrypted;
    // One pass collects each distinct object, and whether the upstream must look it up.
    let mut distinct: HashMap<Option<Reference>, bool> = HashMap::new();
    for reference in references.iter().filter(|reference| has_to_be_asked(reference)) {
        *distinct.entry(reference.reference).or_default() |= reference.role != ReferenceRole::Perhaps;
    }
    if distinct.values().filter(|is_looked_up| **is_looked_up).count() > MOST_LOOKED_UP {
        return Err(ApiError::too_many_references());
    }
    let mut left = MOST_LOOKED_UP.saturating_sub(distinct.len());
    let mut is_asked: Vec<bool> = references.iter().map(has_to_be_asked).collect();
    for (asked, reference) in is_asked.iter_mut().zip(references).rev() {
        if !*asked && reference.is_asked && left > 0 {
            left -= 1;
            *asked = true;
        }
    }
    let of = |wanted: bool| -> Vec<Reference> {
        let each = references.iter().zip(&is_asked).filter(|(_, asked)| **asked == wanted);
        each.filter_map(|(reference, _)| reference.reference).collect()
    };
    let (owner, now) = (admitted.caller.owner, Duration::from_millis(proxy.now()));
    let mut here = proxy.origins.recall_from_memory(&of(false), owner, now).into_iter();
    let mut asked = Vec::new();
    for portion in of(true).chunks(MOST_LOOKED_UP) {
        asked.extend(proxy.origins.recall_all(portion, owner, now).await);
    }
    let mut asked = asked.into_iter();
    let is_down = proxy.origins.is_down();
    let found = |(reference, is_asked): (&LocatedReference<'_>, &bool)| {
        let recalled = if *is_asked { &mut asked } else { &mut here };
        let recalled = reference.reference.and_then(|_| recalled.next()).unwrap_or(Recalled::Unknown);
        // A store that is down delays no request for optional references. A key with so many lookups that its answer comes too
        // late must not get an id accepted by that.
        let role = match (reference.role, recalled) {
            (ReferenceRole::Perhaps, Recalled::LookupFailed(None)) if !is_down => ReferenceRole::LookedUp,
            (role, _) => role,
        };
        LookedUpReference { kind: reference.kind, role, recalled }
    };
    Ok(references.iter().zip(&is_asked).map(found).collect())
}

/// Returns the references that are not known to belong to the caller, sorted. An answer that repeats one proves no ownership.
pub(in crate::proxy) fn unowned(
    references: &[LocatedReference<'_>],
    looked_up: &[LookedUpReference],
) -> Arc<[Reference]> {
    let others = references.iter().zip(looked_up).filter(|(_, found)| !matches!(found.recalled, Recalled::Own(_)));
    let mut unowned: Vec<Reference> = others.filter_map(|(reference, _)| reference.reference).collect();
    unowned.sort_unstable();
    unowned.into()
}
