//! Hides secrets in the text that a report shows. People paste secrets in wrong places, and reports end up in logs and tickets.
//! Each character is covered by one of the same size, so that lines and columns stay correct.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::document::Document;

/// Tables and settings in which a string may be a secret, and the settings inside them that are harmless.
const PRIVATE: [&str; 6] = ["secret", "password", "proxy_password", "sha256", "credentials", "headers"];
const HARMLESS: [&str; 2] = ["name", "account"];

/// Covers everything in a document that may be a secret: values of private settings, values at `hidden` places (unknown settings,
/// tables in wrong places), and comments.
pub(super) fn parsed(document: &Document<'_>, hidden: &[Range<usize>]) -> String {
    let mut walk = Walk { text: document.text, hidden, covered: Vec::new(), occupied: Vec::new() };
    walk.table(document.root.get_ref(), false);
    let comments = comments(document.text, walk.occupied);
    cover(document.text, walk.covered, comments)
}

/// Covers everything that may be a value in a text that is not valid TOML, where values cannot be found reliably.
pub(super) fn unparsed(text: &str) -> String {
    let mut covered = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        // The part before `=`, or a header, stays visible only if it can be nothing but a name.
        let header = line.trim_start().starts_with('[');
        let end = line.find(if header { ']' } else { '=' }).unwrap_or(0);
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_whitespace() || ['_', '.', '['].contains(&c);
        let from = if line[..end].chars().all(is_name) { end } else { 0 };
        let values = line[from..].char_indices().filter(|(_, c)| !is_frame(*c));
        covered.extend(values.map(|(at, c)| start + from + at..start + from + at + c.len_utf8()));
        start += line.len();
    }
    cover(text, covered, Vec::new())
}

/// Whether the text is certainly the name of a variable, and not a secret in its place.
pub(super) fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Whether the text is certainly a path, and not a secret in its place.
fn is_path(text: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| text.starts_with(start))
}

struct Walk<'a> {
    text: &'a str,
    hidden: &'a [Range<usize>],
    covered: Vec<Range<usize>>,
    /// Places of keys and values. A `#` outside them starts a comment.
    occupied: Vec<Range<usize>>,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, private: bool) {
        for (key, value) in table {
            self.occupied.push(key.span());
            if self.hidden.contains(&key.span()) {
                self.covered.push(key.span());
                self.everything(value);
            } else {
                self.value(key.get_ref(), value, private || PRIVATE.contains(&key.get_ref().as_ref()));
            }
        }
    }

    fn value(&mut self, key: &str, value: &Spanned<DeValue<'_>>, private: bool) {
        if self.hidden.contains(&value.span()) {
            return self.everything(value);
        }
        match value.get_ref() {
            DeValue::Table(table) => return self.table(table, private),
            DeValue::Array(array) => return array.iter().for_each(|element| self.value(key, element, private)),
            DeValue::String(text) => {
                let shown = match key {
                    "env" => is_variable(text),
                    // The secret itself may be here by mistake.
                    "file" | "key_file" => is_path(text),
                    // A URL with a user or a query may contain a password.
                    "base_url" | "proxy" => !text.contains(['@', '?', '#']),
                    // A password may follow a colon.
                    "proxy_user" => !text.contains(':'),
                    // A password may follow a user and a colon, or be in the query, escaped or not.
                    "url" | "redis" => {
                        !text.contains(['?', '#'])
                            && text.rsplit_once('@').is_none_or(|(user, _)| user.matches(':').count() < 2)
                    }
                    _ => !private || HARMLESS.contains(&key),
                };
                if !shown {
                    self.cover(value);
                }
            }
            _ => {}
        }
        self.occupied.push(value.span());
    }

    /// Covers a value with everything inside, including keys.
    fn everything(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    self.covered.push(key.span());
                    self.occupied.push(key.span());
                    self.everything(value);
                }
            }
            DeValue::Array(array) => array.iter().for_each(|element| self.everything(element)),
            _ => {
                self.cover(value);
                self.occupied.push(value.span());
            }
        }
    }

    /// Covers one value. Its quotes stay visible, so that a reader sees that the value is a text.
    fn cover(&mut self, value: &Spanned<DeValue<'_>>) {
        let span = value.span();
        let source = &self.text[span.clone()];
        let quote = source.chars().next().filter(|c| ['"', '\''].contains(c));
        let inner = source.trim_matches(|c| Some(c) == quote);
        let start = span.start + (source.len() - source.trim_start_matches(|c| Some(c) == quote).len());
        self.covered.push(start..start + inner.len());
    }
}

fn comments(text: &str, mut occupied: Vec<Range<usize>>) -> Vec<Range<usize>> {
    occupied.sort_by_key(|range| range.start);
    let mut comments = Vec::new();
    let mut at = 0;
    let mut next = occupied.into_iter().peekable();
    while let Some(hash) = text.get(at..).and_then(|rest| rest.find('#')).map(|found| at + found) {
        while next.next_if(|range| range.end <= hash).is_some() {}
        if let Some(range) = next.next_if(|range| range.start <= hash) {
            at = range.end;
            continue;
        }
        let end = text[hash..].find('\n').map_or(text.len(), |found| hash + found);
        comments.push(hash..end);
        at = end;
    }
    comments
}

/// Puts stars over `covered` and spaces over `erased`. Every character keeps its length in bytes.
fn cover(text: &str, mut covered: Vec<Range<usize>>, mut erased: Vec<Range<usize>>) -> String {
    covered.sort_by_key(|range| range.start);
    erased.sort_by_key(|range| range.start);
    let (mut covered, mut erased) = (covered.into_iter().peekable(), erased.into_iter().peekable());
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        while covered.next_if(|range| range.end <= at).is_some() {}
        while erased.next_if(|range| range.end <= at).is_some() {}
        if erased.peek().is_some_and(|range| range.contains(&at)) {
            shown.extend(std::iter::repeat_n(' ', c.len_utf8()));
        } else if covered.peek().is_some_and(|range| range.contains(&at)) && c != '\n' {
            shown.push(match c.len_utf8() {
                1 => '*',
                2 => '·',
                3 => '•',
                _ => '🞄',
            });
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a character surrounds values but is not a part of one.
fn is_frame(c: char) -> bool {
    c.is_whitespace() || ['"', '\'', '=', ',', '[', ']', '{', '}'].contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, hidden: &[Range<usize>]) -> String {
        let document = Document::parse(text).unwrap_or_else(|_| panic!("{text}"));
        let shown = parsed(&document, hidden);
        assert_eq!(shown.len(), text.len());
        shown.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn names_are_shown_and_values_are_not() {
        assert_eq!(shown(r#"listen = "a#b" # sk-1"#, &[]), r#"listen = "a#b""#);
        assert_eq!(shown(r#"x = { secret = { env = "TEAM_KEY" } }"#, &[]), r#"x = { secret = { env = "TEAM_KEY" } }"#);
        assert_eq!(shown(r#"secret = { env = "sk-ä€1" }"#, &[]), r#"secret = { env = "***·•*" }"#);
        assert_eq!(shown(r#"credentials = ["sk#1"] # sk"#, &[]), r#"credentials = ["****"]"#);
        assert_eq!(shown("file = \"abc\" \nfile2 = 1", &[]), "file = \"***\"\nfile2 = 1");
        assert_eq!(shown(r#"proxy = "http://u:p@h""#, &[]), r#"proxy = "************""#);
        assert_eq!(shown(r#"secret = 'a"b= c'"#, &[]), r#"secret = '******'"#);
        assert_eq!(shown(r#"url = "postgres://u:p@h/d""#, &[]), r#"url = "******************""#);
        assert_eq!(shown(r#"url = "postgres://u@h:1/d""#, &[]), r#"url = "postgres://u@h:1/d""#);
        assert_eq!(shown(r#"headers = { a = "b" }"#, &[]), r#"headers = { a = "*" }"#);
        assert_eq!(
            shown("a = 1\nb = { c = [\"d\", 7] }", std::slice::from_ref(&(6..7))),
            "a = 1\n* = { * = [\"*\", *] }"
        );
    }

    #[test]
    fn of_broken_text_only_names_are_left() {
        let text = "[[keys]]\nsecret = sk-1\n sk-2\n[x] # sk-3\na = [\n \"sk-4\" # sk-5\n";
        let shown = unparsed(text);
        assert!(!shown.contains("sk-"), "{shown}");
        assert!(shown.contains("[[keys]]\nsecret = ****\n"), "{shown}");
        assert_eq!(shown.len(), text.len());
    }
}
