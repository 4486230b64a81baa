//! Which bytes are allowed in which part of a head.

/// Whether the byte may be part of a header's value.
pub(super) fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// A byte of a method or of a header's name.
pub(super) const TOKEN: u8 = 1;
/// A byte of a path as the `http` crate reads it, without non-ASCII bytes and without the fragment that the crate cuts
/// off.
pub(super) const PATH: u8 = 2;
/// A byte of a query, likewise.
pub(super) const QUERY: u8 = 4;
/// A byte of a host: a name, an address or `[…]`, and a port. No comma: no host has one, and a comma would allow a
/// list.
pub(super) const HOST: u8 = 8;

pub(super) fn has_class(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

/// Which classes a byte belongs to.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        let mut found = 0;
        if byte.is_ascii_alphanumeric() || contains(b"!#$%&'*+-.^_`|~", byte) {
            found |= TOKEN;
        }
        if byte.is_ascii_graphic() && !contains(b"#<>?`", byte) {
            found |= PATH;
        }
        if byte.is_ascii_graphic() && !contains(b"\"#<>", byte) {
            found |= QUERY;
        }
        if byte.is_ascii_alphanumeric() || contains(b"-._~%:[]!$&'()*+;=", byte) {
            found |= HOST;
        }
        classes[byte as usize] = found;
        byte += 1;
    }
    classes
};

const fn contains(bytes: &[u8], byte: u8) -> bool {
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] == byte {
            return true;
        }
        index += 1;
    }
    false
}
