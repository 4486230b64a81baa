//! Which texts may be the name of a model, and patterns of such names.

use std::sync::Arc;

/// A name of a model; with a trailing `*` it matches any rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelPattern(pub Arc<str>);

impl ModelPattern {
    /// The beginning that names must have, where the pattern ends in `*`.
    pub fn beginning(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Whether it matches the name as it was asked for, or the rest of it behind `upstream/`: a model shall not escape its limits
    /// because it was asked for by way of its upstream.
    pub fn matches(&self, asked: &str, is_upstream: impl Fn(&str) -> bool) -> bool {
        let is_it = |name: &str| match self.beginning() {
            Some(beginning) => name.starts_with(beginning),
            None => *self.0 == *name,
        };
        is_it(asked) || asked.split_once('/').is_some_and(|(first, rest)| is_upstream(first) && is_it(rest))
    }
}

/// Whether every server reads this name as the same model.
///
/// Lenient providers trim names and drop characters that nobody sees. Such a name would lead to a model that this gateway did not
/// look for among its prices and the models of a key.
pub fn is_plain(name: &str) -> bool {
    let is_hidden = |c: char| c.is_control() || is_invisible(c);
    // Most names are ASCII: one pass over bytes.
    let is_odd =
        if name.is_ascii() { name.bytes().any(|byte| byte.is_ascii_control()) } else { name.contains(is_hidden) };
    // By parts: `upstream/ model` would go up as ` model`, and `model/` is read as `model`.
    let is_whole = |part: &str| !part.is_empty() && part.trim().len() == part.len();
    !is_odd && (name.is_empty() || name.split('/').all(is_whole))
}

/// Characters that nobody sees: Unicode's `Default_Ignorable_Code_Point`, the empty Braille pattern, separators of lines and
/// paragraphs, and marks of annotations.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_names_as_asked_and_behind_their_upstream() {
        let matches = |pattern: &str, asked| ModelPattern(pattern.into()).matches(asked, |name| name == "up");
        for (pattern, asked, expected) in [
            ("gpt-5", "gpt-5", true),
            ("gpt-5", "gpt-5-mini", false),
            ("gpt-5*", "gpt-5-mini", true),
            ("gpt-5*", "up/gpt-5-mini", true),
            ("gpt-5", "up/gpt-5", true),
            ("gpt-5", "other/gpt-5", false),
            ("gpt-5", "GPT-5", false),
            ("up/*", "up/gpt-5", true),
            ("*", "x", true),
            ("a/b", "up/a/b", true),
        ] {
            assert_eq!(matches(pattern, asked), expected, "{pattern} {asked}");
        }
    }

    #[test]
    fn names_are_what_people_see() {
        for plain in ["gpt-4o", "a b", "通义千问", "team/gpt-4o:fast", "é", "a\u{a0}b", ""] {
            assert!(is_plain(plain), "{plain:?}");
        }
        for odd in [
            " a",
            "a ",
            "\u{3000}a",
            "a\u{a0}",
            "a\u{85}",
            "a\u{200b}",
            "a\u{202e}b",
            "a\tb",
            "a\u{7f}",
            "a\u{fe0f}",
            "up/ a",
            "up/\u{3000}a",
            "up /a",
            "a/",
            "/a",
            "a//b",
            "a\u{2800}",
        ] {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }
}
