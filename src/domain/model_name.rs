//! Which texts may be the name of a model.

/// Whether every server reads this name as the same model.
///
/// Lenient providers trim names and drop characters that nobody sees. Such a name would lead to a model that this gateway did not
/// look for among its prices and the models of a key.
pub fn is_plain(name: &str) -> bool {
    let is_hidden = |c: char| c.is_control() || is_invisible(c);
    // Most names are ASCII: one pass over bytes.
    let is_odd =
        if name.is_ascii() { name.bytes().any(|byte| byte.is_ascii_control()) } else { name.contains(is_hidden) };
    !is_odd && name.trim().len() == name.len()
}

/// Characters that nobody sees: Unicode's `Default_Ignorable_Code_Point`, separators of lines and paragraphs, and marks of
/// annotations.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_people_see() {
        for plain in ["gpt-4o", "a b", "通义千问", "team/gpt-4o:fast", "é", "a\u{a0}b", ""] {
            assert!(is_plain(plain), "{plain:?}");
        }
        for odd in
            [" a", "a ", "\u{3000}a", "a\u{a0}", "a\u{85}", "a\u{200b}", "a\u{202e}b", "a\tb", "a\u{7f}", "a\u{fe0f}"]
        {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }
}
