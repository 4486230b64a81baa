//! The references that the query of a request makes.

use super::ids::kind_of;
use crate::domain::origin::{Kind, Reference};

/// Where lists go on: `after` and `before` name an item of the list.
const CURSORS: [&str; 2] = ["after", "before"];

/// A reference in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryReference {
    /// What it names.
    pub kind: Kind,
    /// Its hash.
    pub reference: Reference,
    /// It is where a list of items goes on; else its value alone looks like an id.
    pub is_cursor: bool,
}

/// The references of a query, in its order. `is_list` says that the path names something that may be a list of items.
pub fn references(query: &str, is_list: bool) -> Vec<QueryReference> {
    let used = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = unescaped(value);
        let is_cursor = is_list && CURSORS.iter().any(|cursor| unescaped(name) == cursor.as_bytes());
        let kind = match is_cursor {
            true => Some(Kind::Item).filter(|_| !value.is_empty()),
            false => kind_of(&value).map(|(kind, _)| kind),
        }?;
        Some(QueryReference { kind, reference: Reference::new(kind, &value), is_cursor })
    };
    query.split(['&', ';']).filter_map(used).collect()
}

/// A name or a value without its escapes; what is no escape stays.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
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
            references(query, is_list).into_iter().map(|used| (used.kind, used.is_cursor)).collect::<Vec<_>>()
        };
        for (query, list, other) in [
            ("", vec![], vec![]),
            ("limit=2&order=asc&after=&include%5B%5D=a_b", vec![], vec![]),
            ("after=msg_1", vec![(Kind::Item, true)], vec![(Kind::Item, false)]),
            ("limit=1&%61fter=7", vec![(Kind::Item, true)], vec![]),
            ("after=1&after=2;before=3", vec![(Kind::Item, true); 3], vec![]),
            ("x=resp%5F1", vec![(Kind::Response, false)], vec![(Kind::Response, false)]),
            ("starting_after=7&resp_1", vec![], vec![]),
        ] {
            assert_eq!((found(query, true), found(query, false)), (list, other), "{query}");
        }
        let same = |one: &str, other: &str| references(one, true) == references(other, true);
        assert!(same("after=msg_1", "after=msg%5f1") && same("after=a%zz%", "after=a%zz%25"));
    }
}
