//! What the ids of stored objects look like.

use memchr::memchr2;

use super::finder::MAX_ID;
use crate::domain::origin::Kind;

/// The longest prefix of an id, in bytes. OpenAI's have up to 5.
const MAX_PREFIX: usize = 12;

/// The shortest random part of an id whose prefix is not known, in bytes: OpenAI's have 24 and more.
const MIN_RANDOM: usize = 16;

/// The kind of object that has an id like this one, and whether the text is an id rather than a word; `None` where it looks like no id.
///
/// An id is a prefix of ASCII letters, `_` or `-`, and a rest without space. The prefix says the kind. An id with a prefix that is not
/// known is that of an item, as providers add types of items: after `_`, letters and digits, 16 at least, and one digit among them.
/// Ids of calls (`call_…`, `toolu_…`) name nothing that is stored. Without a digit or a capital letter, and with a prefix that is a word,
/// `file_path` or `item_count` may be meant, as tools name their arguments: memory alone is asked for such a text, not the store.
#[inline]
pub(super) fn kind_of(text: &[u8]) -> Option<(Kind, bool)> {
    let head = &text[..text.len().min(MAX_PREFIX + 1)];
    let separator = memchr2(b'_', b'-', head)?;
    let (prefix, rest) = (&text[..separator], &text[separator + 1..]);
    if text.len() > MAX_ID
        || matches!(rest.first(), None | Some(b'_' | b'-'))
        || !prefix.iter().all(u8::is_ascii_lowercase)
    {
        return None;
    }
    let (kind, is_word) = match prefix {
        b"resp" => (Kind::Response, false),
        b"conv" => (Kind::Conversation, false),
        b"file" | b"cfile" => (Kind::File, true),
        b"vs" => (Kind::VectorStore, false),
        b"cntr" => (Kind::Container, false),
        b"skill" => (Kind::Skill, true),
        b"msg" | b"rs" => (Kind::Item, false),
        b"fc" | b"fco" | b"ctc" | b"ctco" | b"ig" | b"ws" | b"fs" | b"ci" | b"cu" | b"cuo" | b"mcp" | b"mcpl"
        | b"mcpr" | b"lsh" | b"lsho" | b"sh" | b"sho" | b"apc" | b"apco" | b"cmp" | b"at" | b"ts" | b"tsc" | b"tso"
        | b"amsg" | b"audio" | b"item" => (Kind::Item, true),
        b"call" | b"toolu" => return None,
        _ => return is_random(text[separator], rest).then_some((Kind::Item, true)),
    };
    let is_id = !is_word || rest.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    rest.iter().all(u8::is_ascii_graphic).then_some((kind, is_id))
}

fn is_random(separator: u8, rest: &[u8]) -> bool {
    separator == b'_'
        && rest.len() >= MIN_RANDOM
        && rest.iter().all(u8::is_ascii_alphanumeric)
        && rest.iter().any(u8::is_ascii_digit)
}

/// Whether a text that begins with these bytes may be an id.
#[inline]
pub(super) fn may_begin_id(begin: &[u8]) -> bool {
    begin.len() <= MAX_ID && begin.iter().take(MAX_PREFIX + 2).all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_says_the_kind() {
        let (id, word) = (|kind| Some((kind, true)), |kind| Some((kind, false)));
        for (text, kind) in [
            ("resp_1", id(Kind::Response)),
            ("resp-abc", id(Kind::Response)),
            ("conv_68a9837bb9bc8190b403", id(Kind::Conversation)),
            ("file-abc", word(Kind::File)),
            ("file-abc1", id(Kind::File)),
            ("file-abCdefghijklmnopqrstuv", id(Kind::File)),
            ("cfile_68a9837bb9bc", id(Kind::File)),
            ("vs_a", id(Kind::VectorStore)),
            ("cntr_a", id(Kind::Container)),
            ("skill_1", id(Kind::Skill)),
            ("msg_018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f", id(Kind::Item)),
            ("amsg_1", id(Kind::Item)),
            ("item_count", word(Kind::Item)),
            ("newitem_68a9837bb9bc8190b403947311db6faa", id(Kind::Item)),
            // What callers write.
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
            ("application_68a9837bb9bc8190b40394", id(Kind::Item)),
            ("applications_and_more_68a9837bb9bc8190b40394", None),
        ] {
            assert_eq!(kind_of(text.as_bytes()), kind, "{text}");
            assert!(kind.is_none() || (0..=text.len()).all(|end| may_begin_id(&text.as_bytes()[..end])), "{text}");
        }
        let long = |len: usize| format!("resp_{}", "1".repeat(len - 5));
        assert_eq!(kind_of(long(MAX_ID).as_bytes()), id(Kind::Response));
        assert_eq!(kind_of(long(MAX_ID + 1).as_bytes()), None);
        assert!(!may_begin_id(long(MAX_ID + 1).as_bytes()) && !may_begin_id(b"in a text"));
    }
}
