//! Which bytes may stand where.

/// What a value consists of.
pub(super) fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// Of a method or a header's name.
pub(super) const TOKEN: u8 = 1;
/// As the `http` crate reads paths, less what is not ASCII and the fragment that it cuts off.
pub(super) const PATH: u8 = 2;
/// The same of queries.
pub(super) const QUERY: u8 = 4;
/// A name, an address or `[…]`, and a port. Not a list: a comma is no part of any host that there is.
pub(super) const HOST: u8 = 8;

pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

/// Which classes a byte belongs to.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        let mut of = 0;
        if byte.is_ascii_alphanumeric() || holds(b"!#$%&'*+-.^_`|~", byte) {
            of |= TOKEN;
        }
        if byte.is_ascii_graphic() && !holds(b"#<>?`", byte) {
            of |= PATH;
        }
        if byte.is_ascii_graphic() && !holds(b"\"#<>", byte) {
            of |= QUERY;
        }
        if byte.is_ascii_alphanumeric() || holds(b"-._~%:[]!$&'()*+;=", byte) {
            of |= HOST;
        }
        classes[byte as usize] = of;
        byte += 1;
    }
    classes
};

const fn holds(bytes: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}
