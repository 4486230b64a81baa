//! Checks for model names, and patterns that match model names.

use std::sync::Arc;

/// A pattern for model names in the configuration: one name, or a prefix with a trailing `*` that matches any rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelPattern(pub Arc<str>);

impl ModelPattern {
    /// The prefix that model names must have to match this pattern. None where the pattern does not end in `*`.
    pub fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Whether this pattern matches the requested model name, or the part of the name after `upstream/`. So a client cannot
    /// escape the limits of a model with a request for `upstream/model`.
    pub fn matches(&self, requested: &str, is_upstream: impl Fn(&str) -> bool) -> bool {
        let matches_name = |name: &str| match self.prefix() {
            Some(prefix) => name.starts_with(prefix),
            None => *self.0 == *name,
        };
        matches_name(requested)
            || requested.split_once('/').is_some_and(|(first, rest)| is_upstream(first) && matches_name(rest))
    }
}

/// Whether every server reads this model name as the same model: no invisible characters, and no spaces at an end.
///
/// Lenient providers trim names and drop invisible characters. With such a name, a client could reach a model other than the one
/// whose price and permissions Tidegate checked.
pub fn is_plain(name: &str) -> bool {
    let is_hidden = |c: char| c.is_control() || is_invisible(c);
    // Most names are ASCII: one pass over bytes.
    let has_hidden =
        if name.is_ascii() { name.bytes().any(|byte| byte.is_ascii_control()) } else { name.contains(is_hidden) };
    // Each part is checked: `upstream/ model` would be sent upstream as ` model`, and some providers read `model/` as `model`.
    let is_trimmed = |part: &str| !part.is_empty() && part.trim().len() == part.len();
    !has_hidden && (name.is_empty() || name.split('/').all(is_trimmed))
}

/// Whether a character is invisible: Unicode's `Default_Ignorable_Code_Point`, the empty Braille pattern, line and paragraph
/// separators, and annotation marks.
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
    fn a_pattern_matches_requested_names_with_and_without_the_upstream() {
        let matches = |pattern: &str, requested| ModelPattern(pattern.into()).matches(requested, |name| name == "up");
        for (pattern, requested, expected) in [
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
            assert_eq!(matches(pattern, requested), expected, "{pattern} {requested}");
        }
    }

    #[test]
    fn plain_names_have_no_hidden_characters_and_no_outer_spaces() {
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
