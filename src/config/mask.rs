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

/// Returns one line of a configuration file with everything covered that may be a secret. These are values of private settings,
/// values at `hidden` places (unknown settings, tables in wrong places), and comments.
pub(super) fn parsed(document: &Document<'_>, hidden: &[Range<usize>], line: Range<usize>) -> String {
    let mut walk = Walk { text: document.text, hidden, line, covered: Vec::new(), occupied: Vec::new() };
    walk.table(document.root.get_ref(), false);
    let Walk { line, covered, occupied, .. } = walk;
    let comment = comment(document.text, &line, occupied);
    cover(document.text, line, covered, comment)
}

/// Returns one line of a file that is not valid TOML, with its values covered. It is unknown what is a value, so everything that
/// could be a secret is covered.
pub(super) fn unparsed(line: &str) -> String {
    // The name of a setting before `=`, or a header, is shown only if it cannot be anything else.
    let header = line.trim_start().starts_with('[');
    let end = line.find(if header { ']' } else { '=' }).unwrap_or(0);
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_whitespace() || ['_', '.', '['].contains(&c);
    let from = if line[..end].chars().all(is_name) { end } else { 0 };
    let (name, value) = line.split_at(from);
    let shown = value.chars().map(|c| if is_frame(c) { c } else { star(c) });
    name.chars().chain(shown).collect()
}

/// Whether a text is certainly the name of an environment variable, and not a secret in its place.
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
    /// The line that is shown. The walk records places inside this line only.
    line: Range<usize>,
    covered: Vec<Range<usize>>,
    /// Places of keys and values. A `#` outside them starts a comment.
    occupied: Vec<Range<usize>>,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, private: bool) {
        for (key, value) in table {
            self.occupy(key.span());
            if self.hidden.contains(&key.span()) {
                self.hide(key.span());
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
        self.occupy(value.span());
    }

    fn occupy(&mut self, range: Range<usize>) {
        if overlaps(&range, &self.line) {
            self.occupied.push(range);
        }
    }

    fn hide(&mut self, range: Range<usize>) {
        if overlaps(&range, &self.line) {
            self.covered.push(range);
        }
    }

    /// Covers a value with everything inside, including keys.
    fn everything(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    self.hide(key.span());
                    self.occupy(key.span());
                    self.everything(value);
                }
            }
            DeValue::Array(array) => array.iter().for_each(|element| self.everything(element)),
            _ => {
                self.cover(value);
                self.occupy(value.span());
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
        self.hide(start..start + inner.len());
    }
}

fn overlaps(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Returns the place of a line's comment: from the first `#` that is in no key and no value.
fn comment(text: &str, line: &Range<usize>, occupied: Vec<Range<usize>>) -> Range<usize> {
    let shown = text.get(line.clone()).unwrap_or_default();
    let mut hashes = shown.match_indices('#').map(|(at, _)| line.start + at);
    let begins = hashes.find(|hash| !occupied.iter().any(|range| range.contains(hash)));
    begins.unwrap_or(line.end)..line.end
}

/// Returns a line with stars over the characters of `covered`, and without its `comment`. Every character keeps its length in bytes.
fn cover(text: &str, line: Range<usize>, covered: Vec<Range<usize>>, comment: Range<usize>) -> String {
    let shown = text.get(line.clone()).unwrap_or_default().char_indices().map(|(at, c)| (line.start + at, c));
    let mut out = String::with_capacity(line.len());
    for (at, c) in shown {
        if comment.contains(&at) {
            out.extend(std::iter::repeat_n(' ', c.len_utf8()));
        } else if covered.iter().any(|range| range.contains(&at)) {
            out.push(star(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns the character that covers another one. Both have the same length in bytes.
fn star(c: char) -> char {
    match c.len_utf8() {
        1 => '*',
        2 => '·',
        3 => '•',
        _ => '🞄',
    }
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
        let shown = lines(text).map(|line| {
            let shown = parsed(&document, hidden, line.clone());
            assert_eq!(shown.len(), line.len());
            shown.trim_end().to_owned()
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// Where each line stands.
    fn lines(text: &str) -> impl Iterator<Item = Range<usize>> {
        text.lines()
            .map(|line| line.as_ptr().addr() - text.as_ptr().addr())
            .map(|start| start..text[start..].find('\n').map_or(text.len(), |newline| start + newline))
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
    fn a_text_over_lines_is_covered_on_each_of_them() {
        assert_eq!(
            shown("secret = \"\"\"\nsk-#1\nsk-2\"\"\" # sk-3\nlisten = \"a\"", &[]),
            "secret = \"\"\"\n*****\n****\"\"\"\nlisten = \"a\""
        );
        assert_eq!(shown("credentials = [ # sk-1\n \"sk#2\", # sk-3\n]", &[]), "credentials = [\n \"****\",\n]");
    }

    #[test]
    fn of_broken_text_only_names_are_left() {
        let text = "[[keys]]\nsecret = sk-1\n sk-2\n[x] # sk-3\na = [\n \"sk-4\" # sk-5\n";
        let shown = text.lines().map(unparsed).collect::<Vec<_>>().join("\n");
        assert!(!shown.contains("sk-"), "{shown}");
        assert!(shown.contains("[[keys]]\nsecret = ****\n"), "{shown}");
        assert_eq!(shown.len() + 1, text.len());
    }
}
