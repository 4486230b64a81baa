//! The code of a source file: without comments, quoted text and tests.

/// The tokens of imports. Everything else in a file is skipped, or becomes a token of one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) String);

impl Token {
    pub(crate) fn is_name(&self) -> bool {
        self.0.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of a file, without its comments, quoted text and tests.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    without_tests(split(&without_text(text)))
}

/// Replaces comments, strings and characters by blanks.
pub(crate) fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let (mut kept, mut index) = (String::new(), 0);
    while index < chars.len() {
        let begin = index;
        match (at(index), at(index + 1)) {
            ('/', '/') => index = until(&chars, index, |index| at(index) == '\n'),
            ('/', '*') => index = until(&chars, index, |index| at(index) == '*' && at(index + 1) == '/') + 2,
            ('r', '"' | '#') if !is_part_of_name(&chars, index) => {
                let hashes = (index + 1..).take_while(|&index| at(index) == '#').count();
                if at(index + 1 + hashes) == '"' {
                    let ends = |end: usize| at(end) == '"' && (1..=hashes).all(|hash| at(end + hash) == '#');
                    index = until(&chars, index + 2 + hashes, ends) + 1 + hashes;
                }
            }
            ('"', _) => {
                index += 1;
                while index < chars.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
            }
            ('\'', '\\') => index = until(&chars, index + 3, |index| at(index) == '\'') + 1,
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            _ => {}
        }
        if index == begin {
            kept.push(at(index));
            index += 1;
        } else {
            kept.push(' ');
        }
    }
    kept
}

fn until(chars: &[char], from: usize, ends: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&index| ends(index)).unwrap_or(chars.len())
}

fn is_part_of_name(chars: &[char], index: usize) -> bool {
    let before = index.checked_sub(1).and_then(|before| chars.get(before));
    // `br"…"` is a string, too.
    before.is_some_and(|c| (c.is_alphanumeric() || *c == '_') && *c != 'b')
}

/// The tokens of a text.
pub(crate) fn split(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let len = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        tokens.push(Token(rest[..len].to_owned()));
        rest = rest[len..].trim_start();
    }
    tokens
}

/// Removes every item that is built for tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut index) = (Vec::new(), 0);
    while index < tokens.len() {
        let begins = |(token, mark): (&Token, &&str)| token.0 == **mark;
        if tokens.len() >= index + mark.len() && tokens[index..].iter().zip(&mark).all(begins) {
            index = end_of_item(&tokens, index + mark.len());
        } else {
            kept.push(tokens[index].clone());
            index += 1;
        }
    }
    kept
}

/// An item ends with the first semicolon or closing brace outside of its own brackets.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        match token.0.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let text = r##"
//! crate::doc
use crate::a; /* crate::b */ let s = "crate::c\"crate::d"; let r = r#"crate::e " "#; let c = '"'; let l: &'a str = 'x';
#[cfg(test)]
use crate::f::{g, h};
#[cfg(test)]
mod tests { use super::*; fn f() { crate::i(); } }
use crate::j;
"##;
    let found: Vec<String> = tokens(text).into_iter().map(|token| token.0).collect();
    assert_eq!(
        found.join(" "),
        "use crate :: a ; let s = ; let r = ; let c = ; let l : & ' a str = ; ; use crate :: j ;"
    );
}
