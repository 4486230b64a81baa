//! Which containers are open: one bit a level, so that depth needs no limit and no recursion.

/// A stack of bits: set for an object, clear for an array.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    depth: u64,
    /// The innermost 1 to 64 levels, the innermost in the lowest bit. Most texts never need more.
    inner: u64,
    /// The levels outside of those, 64 a word.
    outer: Vec<u64>,
}

impl Nesting {
    pub(super) fn depth(&self) -> u64 {
        self.depth
    }

    /// The innermost container is an object.
    pub(super) fn in_object(&self) -> bool {
        self.inner & 1 == 1
    }

    pub(super) fn push(&mut self, object: bool) {
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(object);
        self.depth += 1;
    }

    pub(super) fn pop(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth.is_multiple_of(64)
            && let Some(word) = self.outer.pop()
        {
            self.inner = word;
        }
    }

    pub(super) fn clear(&mut self) {
        self.depth = 0;
        self.inner = 0;
        self.outer.clear();
    }
}
