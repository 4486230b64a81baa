//! Recognizes the ids of stored objects.

use crate::{domain::origin::ReferenceKind, protocol::json::STRING_LIMIT};

/// The longest id in bytes. OpenAI's ids have fewer than 100.
pub(super) const MAX_ID: usize = 256;

/// The longest prefix of an id, in bytes. OpenAI's prefixes have up to 5.
const MAX_PREFIX: usize = 12;

/// The shortest random part of an id with an unknown prefix, in bytes. OpenAI's random parts have 24 and more.
const MIN_RANDOM: usize = 16;

/// The shortest id without a known prefix, and its shortest random part, in bytes. A UUID has 32 digits, and ids of relays have
/// 20 and more. Names of models and tools, and dates, have no random part of that length.
const MIN_OPAQUE: usize = 16;
const MIN_OPAQUE_PART: usize = 12;

/// A longer text is no id, even with white space around it.
const MAX_TEXT: usize = STRING_LIMIT;

/// Recognizes an id of a stored object. Returns the kind of the object, and whether the text is certainly an id and not a word. `None` if
/// the text does not look like an id.
///
/// An id is a prefix of ASCII letters, `_` or `-`, and a rest without white space. The prefix gives the kind. An id with an
/// unknown prefix counts as an item, because providers add types of items. After its `_` come at least 16 letters and digits, and
/// one of them is a digit. Ids of calls (`call_…`, `toolu_…`) name no stored object.
///
/// A text whose prefix is a word, and that has no digit and no capital letter, may be the name of a tool's argument: `file_path`,
/// `item_count`. For such a text Tidegate only asks its memory, and not the store.
///
/// With `opaque`, UUIDs and other random texts are ids as well ([`ReferenceKind::Opaque`]). Relays use such ids.
#[inline]
pub(super) fn kind_of(text: &[u8], opaque: bool) -> Option<(ReferenceKind, bool)> {
    prefixed(text).unwrap_or_else(|| (opaque && is_opaque(text)).then_some((ReferenceKind::Opaque, true)))
}

/// Returns the same for a text with a prefix that decides. `None` if there is no such prefix.
#[inline]
fn prefixed(text: &[u8]) -> Option<Option<(ReferenceKind, bool)>> {
    let head = &text[..text.len().min(MAX_PREFIX + 1)];
    // Prefixes are so short that a vectorized search for the separator would cost more.
    let separator = head.iter().position(|byte| !byte.is_ascii_lowercase())?;
    let (prefix, rest) = (&text[..separator], &text[separator + 1..]);
    if !matches!(text[separator], b'_' | b'-')
        || matches!(rest.first(), None | Some(b'_' | b'-'))
        || text.len() > MAX_ID
    {
        return None;
    }
    let (kind, is_word) = match prefix {
        b"resp" => (ReferenceKind::Response, false),
        b"conv" => (ReferenceKind::Conversation, false),
        b"file" | b"cfile" => (ReferenceKind::File, true),
        b"vs" => (ReferenceKind::VectorStore, false),
        b"cntr" => (ReferenceKind::Container, false),
        b"skill" => (ReferenceKind::Skill, true),
        b"msg" | b"rs" => (ReferenceKind::Item, false),
        b"fc" | b"fco" | b"ctc" | b"ctco" | b"ig" | b"ws" | b"fs" | b"ci" | b"cu" | b"cuo" | b"mcp" | b"mcpl"
        | b"mcpr" | b"lsh" | b"lsho" | b"sh" | b"sho" | b"apc" | b"apco" | b"cmp" | b"at" | b"ts" | b"tsc" | b"tso"
        | b"amsg" | b"audio" | b"item" => (ReferenceKind::Item, true),
        b"call" | b"toolu" => return Some(None),
        _ => return is_random(text[separator], rest).then_some(Some((ReferenceKind::Item, true))),
    };
    let is_id = !is_word || rest.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    rest.iter().all(u8::is_ascii_graphic).then_some(Some((kind, is_id)))
}

fn is_random(separator: u8, rest: &[u8]) -> bool {
    separator == b'_'
        && rest.len() >= MIN_RANDOM
        && rest.iter().all(u8::is_ascii_alphanumeric)
        && rest.iter().any(u8::is_ascii_digit)
}

/// Whether the text consists of letters and digits in parts, and one part is long and has a digit. A UUID counts with any digits.
fn is_opaque(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || is_between(byte);
    if text.len() < MIN_OPAQUE || text.len() > MAX_ID || !text.iter().all(is_plain) {
        return false;
    }
    let mut parts = text.split(is_between);
    parts.any(|part| part.len() >= MIN_OPAQUE_PART && part.iter().any(u8::is_ascii_digit)) || is_uuid(text)
}

fn is_between(byte: &u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.' | b':')
}

fn is_uuid(text: &[u8]) -> bool {
    let is_there = |(place, byte): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.iter().enumerate().all(is_there)
}

/// Returns a text without the white space around it, because lenient providers trim it.
#[inline]
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    match (text.first(), text.last()) {
        (Some(first), Some(last)) if !(first.is_ascii_graphic() && last.is_ascii_graphic()) => trim(text),
        _ => text,
    }
}

fn trim(text: &[u8]) -> &[u8] {
    let short = text.get(..text.len().min(MAX_TEXT)).filter(|short| short.len() == text.len());
    short.and_then(|text| std::str::from_utf8(text).ok()).map_or(text, |text| text.trim().as_bytes())
}

/// Whether a text that begins with these bytes may be an id, with or without white space around it.
#[inline]
pub(super) fn may_begin_id(begin: &[u8]) -> bool {
    if begin.len() > MAX_ID && (begin.len() > MAX_TEXT || begin[..=MAX_ID].iter().all(u8::is_ascii_graphic)) {
        return false;
    }
    let id = begin.trim_ascii_start();
    match id.iter().take(MAX_PREFIX + 2).position(|byte| !byte.is_ascii_graphic()) {
        None => true,
        // The first byte of white space outside of ASCII, complete or cut.
        Some(0) => matches!(id[0], 0xb | 0xc2 | 0xe1..=0xe3),
        Some(end) => !id[end..].iter().any(u8::is_ascii_graphic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_an_id_names_its_kind() {
        let (id, word) = (|kind| Some((kind, true)), |kind| Some((kind, false)));
        for (text, kind) in [
            ("resp_1", id(ReferenceKind::Response)),
            ("resp-abc", id(ReferenceKind::Response)),
            ("conv_68a9837bb9bc8190b403", id(ReferenceKind::Conversation)),
            ("file-abc", word(ReferenceKind::File)),
            ("file-abc1", id(ReferenceKind::File)),
            ("file-abCdefghijklmnopqrstuv", id(ReferenceKind::File)),
            ("cfile_68a9837bb9bc", id(ReferenceKind::File)),
            ("vs_a", id(ReferenceKind::VectorStore)),
            ("cntr_a", id(ReferenceKind::Container)),
            ("skill_1", id(ReferenceKind::Skill)),
            ("msg_018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f", id(ReferenceKind::Item)),
            ("amsg_1", id(ReferenceKind::Item)),
            ("item_count", word(ReferenceKind::Item)),
            ("newitem_68a9837bb9bc8190b403947311db6faa", id(ReferenceKind::Item)),
            // Texts that clients write.
            ("", None),
            ("resp", None),
            ("resp_", None),
            ("_1", None),
            ("resp_a b", None),
            ("Resp_1", None),
            ("response_1", None),
            ("mcp__server__tool1", None),
            ("call_68a9837bb9bc8190b403947311db6faa", None),
            ("toolu_68a9837bb9bc8190b403947311db6faa", None),
            ("input_text", None),
            ("get_weather_of_2025_in_a_city", None),
            ("web_search_preview_2025_03_11", None),
            ("gpt-5-mini-2025-08-07", None),
            ("018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f", None),
            ("application_68a9837bb9bc8190b40394", id(ReferenceKind::Item)),
            ("applications_and_more_68a9837bb9bc8190b40394", None),
        ] {
            assert_eq!(kind_of(text.as_bytes(), false), kind, "{text}");
            assert!(kind.is_none() || (0..=text.len()).all(|end| may_begin_id(&text.as_bytes()[..end])), "{text}");
        }
        let long = |len: usize| format!("resp_{}", "1".repeat(len - 5));
        assert_eq!(kind_of(long(MAX_ID).as_bytes(), true), id(ReferenceKind::Response));
        assert_eq!(kind_of(long(MAX_ID + 1).as_bytes(), true), None);
        assert!(!may_begin_id(long(MAX_ID + 1).as_bytes()) && !may_begin_id(b"in a text"));
    }

    #[test]
    fn random_texts_count_as_ids_if_upstreams_use_such_ids() {
        for text in [
            "018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
            "018F3B5E-7D8A-7C6E-B0F1-2A3B4C5D6E7F",
            "abcdefab-abcd-abcd-abcd-abcdefabcdef",
            "00000000000000000000000000000001",
            "gen-1757000000-AbCdEfGhIjKl12345678",
            "chatcmpl-9f8a7b6c5d4e3f2a1b0c",
            "RESP_9f8a7b6c5d4e3f2a1b0c",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "request.0217570000001234",
        ] {
            assert_eq!(kind_of(text.as_bytes(), true), Some((ReferenceKind::Opaque, true)), "{text}");
            assert_eq!(kind_of(text.as_bytes(), false), None, "{text}");
            assert!((0..=text.len()).all(|end| may_begin_id(&text.as_bytes()[..end])), "{text}");
        }
        // Names, dates, words, calls, and what has other characters.
        for text in [
            "gpt-4o-mini-2024-07-18",
            "claude-sonnet-4-5-20250929",
            "web_search_preview_2025_03_11",
            "2025-03-11T00:00:00.000Z",
            "mcp__server1__get_weather_of_city",
            "call_68a9837bb9bc8190b403947311db6faa",
            "toolu_68a9837bb9bc8190b403947311db6faa",
            "additionalProperties",
            "abcdefab-abcd-abcd-abcd-abcdefabcdeg",
            "018f3b5e7d8a7c6",
            "018f3b5e-7d8a-7c6e b0f1-2a3b4c5d6e7f",
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA",
        ] {
            assert_eq!(kind_of(text.as_bytes(), true), None, "{text}");
        }
    }

    #[test]
    fn an_id_with_white_space_around_it_is_found() {
        let spaces = ["", " ", "\t \r\n", "\u{a0}", "\u{3000}\u{2003}", "\u{b}\u{c}\u{85}\u{2028}"];
        for before in spaces {
            for after in spaces {
                let text = format!("{before}resp_1{after}");
                assert_eq!(trimmed(text.as_bytes()), b"resp_1", "{text:?}");
                assert!((0..=text.len()).all(|end| may_begin_id(&text.as_bytes()[..end])), "{text:?}");
            }
        }
        let long = |before: usize, after: usize| format!("{}resp_1{}", " ".repeat(before), " ".repeat(after));
        for (text, expected) in
            [(long(253, 253), "resp_1".into()), (long(0, 507), long(0, 507)), (" ".into(), "".into())]
        {
            assert_eq!(trimmed(text.as_bytes()), expected.as_bytes());
        }
        assert!(may_begin_id(long(253, 253).as_bytes()) && !may_begin_id("x".repeat(257).as_bytes()));
    }
}
