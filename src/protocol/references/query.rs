//! Finds the references in the query of a request.

use super::ids::{kind_of, trimmed};
use crate::domain::origin::{Reference, ReferenceKind};

/// The cursors of a list: `after` and `before` name an item of the list.
const CURSORS: [&[u8]; 2] = [b"after", b"before"];

/// Names that give the kind of an id without a prefix, as in bodies.
const NAMES: [(&[u8], ReferenceKind); 10] = [
    (b"previous_response_id", ReferenceKind::Response),
    (b"response_id", ReferenceKind::Response),
    (b"conversation", ReferenceKind::Conversation),
    (b"conversation_id", ReferenceKind::Conversation),
    (b"file_id", ReferenceKind::File),
    (b"file_ids", ReferenceKind::File),
    (b"vector_store_ids", ReferenceKind::VectorStore),
    (b"container", ReferenceKind::Container),
    (b"container_id", ReferenceKind::Container),
    (b"skill_id", ReferenceKind::Skill),
];

/// How many times escapes are decoded. Each server in a chain may decode them once.
const ROUNDS: usize = 3;

/// An id of a stored object in the query of a request's URL, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryReference {
    /// The kind of the named object.
    pub kind: ReferenceKind,
    /// The hash of the id.
    pub reference: Reference,
    /// The reference is the cursor of a list of items. False: only its name or its value makes it a reference.
    pub is_cursor: bool,
}

/// Returns the ids of stored objects in the query of a request's URL, in their order. `is_list`: the path may name a list of items.
/// `opaque`: random texts without a known prefix are ids as well. Names of parameters may be ids, like values.
pub fn references(query: &str, is_list: bool, opaque: bool) -> Vec<QueryReference> {
    let mut used = Vec::new();
    for (name, value) in pairs(query) {
        let bare = bare(name);
        let is_cursor = is_list && CURSORS.contains(&&*bare);
        let named = NAMES.iter().find(|(known, _)| *known == bare).map(|(_, kind)| *kind);
        for (round, text) in rounds(value).iter().enumerate() {
            let text = trimmed(text);
            let by_value = kind_of(text, opaque).map(|(kind, _)| kind);
            // A cursor is the value after one decoding. If its escapes can be decoded again, the result counts like any other
            // value.
            let cursor = Some(ReferenceKind::Item).filter(|_| is_cursor && round == 0);
            let by_value = by_value.filter(|kind| cursor != Some(*kind)).or(named);
            let kinds = [cursor, by_value].into_iter().flatten().filter(|_| !text.is_empty());
            let of =
                |kind| QueryReference { kind, reference: Reference::new(kind, text), is_cursor: cursor == Some(kind) };
            used.extend(kinds.map(of));
        }
        for text in rounds(name) {
            let text = trimmed(&text);
            let kind = kind_of(text, opaque).filter(|(_, is_id)| *is_id).map(|(kind, _)| kind);
            used.extend(kind.map(|kind| QueryReference {
                kind,
                reference: Reference::new(kind, text),
                is_cursor: false,
            }));
        }
    }
    used
}

/// Whether the query of a URL has this parameter, in any spelling: in another letter case, with escapes, or as a list (`name[]`).
pub fn has(query: &str, name: &str) -> bool {
    pairs(query).any(|(given, _)| bare(given) == name.as_bytes())
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split(['&', ';']).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Returns a name as lenient servers read it.
fn bare(name: &str) -> Vec<u8> {
    let mut name = rounds(name).pop().unwrap_or_default().to_ascii_lowercase();
    name.truncate(name.iter().position(|byte| *byte == b'[').unwrap_or(name.len()));
    trimmed(&name).to_vec()
}

/// Returns a text with its escapes decoded once, and each result of decoding them again.
fn rounds(text: &str) -> Vec<Vec<u8>> {
    let mut rounds = vec![unescaped(text.as_bytes())];
    while rounds.len() < ROUNDS
        && let Some(next) = rounds.last().filter(|last| last.contains(&b'%')).map(|last| unescaped(last))
    {
        rounds.push(next);
    }
    rounds
}

/// Returns a name or a value with its escapes decoded once. Invalid escapes stay.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, more)) = rest.split_first() {
        let digit = |place: usize| more.get(place).and_then(|digit| char::from(*digit).to_digit(16));
        rest = more;
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &more[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_ids_are_found() {
        let found = |query: &str, is_list: bool| {
            references(query, is_list, true).into_iter().map(|used| (used.kind, used.is_cursor)).collect::<Vec<_>>()
        };
        let response = || vec![(ReferenceKind::Response, false)];
        for (query, list, other) in [
            ("", vec![], vec![]),
            ("limit=2&order=asc&after=&include%5B%5D=a_b", vec![], vec![]),
            ("after=msg_1", vec![(ReferenceKind::Item, true)], vec![(ReferenceKind::Item, false)]),
            ("limit=1&%61fter=7", vec![(ReferenceKind::Item, true)], vec![]),
            ("after=1&after=2;before=3", vec![(ReferenceKind::Item, true); 3], vec![]),
            ("after[]=1&AFTER%5b0%5D=2;+before+=3", vec![(ReferenceKind::Item, true); 3], vec![]),
            ("x=resp%5F1", response(), response()),
            ("x=%20resp_1+", response(), response()),
            ("x=resp%255F1", response(), response()),
            ("x=resp%25255F1", response(), response()),
            ("starting_after=7&resp_1", response(), response()),
            ("resp%5f1=7", response(), response()),
            ("file_path=1&item_count=2", vec![], vec![]),
            ("Previous_Response_ID[]=018f", response(), response()),
            (
                "x=018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
                vec![(ReferenceKind::Opaque, false)],
                vec![(ReferenceKind::Opaque, false)],
            ),
            (
                "after=018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
                vec![(ReferenceKind::Item, true), (ReferenceKind::Opaque, false)],
                vec![(ReferenceKind::Opaque, false)],
            ),
        ] {
            assert_eq!((found(query, true), found(query, false)), (list, other), "{query}");
        }
        assert_eq!(references("x=018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f", false, false), []);
        let same = |one: &str, other: &str| references(one, true, true) == references(other, true, true);
        assert!(same("after=msg_1", "after=msg%5f1") && same("after=a", "after=+a%20"));
    }

    #[test]
    fn an_escaped_name_is_found() {
        for query in ["model=x", "a=1&Model", "x;MODEL=", "%6dodel=x", "%256dodel=x", "model[]=x", "+model%5B0%5D=x"] {
            assert!(has(query, "model"), "{query}");
        }
        for query in ["", "models=x", "x=model", "a_model=x", "x[model]=y"] {
            assert!(!has(query, "model"), "{query}");
        }
    }
}
