//! Which elements of an array can be cut out of a text, and what has to go with each so that the rest is still JSON.

use std::ops::Range;

/// Follows one array, and cuts elements out of it: each with one comma.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    ranges: Vec<Range<u64>>,
    /// An element before this one stays.
    some_stay: bool,
    /// This element goes.
    goes: bool,
    /// The comma before this element.
    comma_at: u64,
}

impl Cuts {
    /// This element goes.
    pub(super) fn cut(&mut self, element: Range<u64>) {
        self.goes = true;
        // After one that stays, the comma between them goes with it, and otherwise the next one, if there is one.
        let start = if self.some_stay { self.comma_at } else { element.start };
        self.ranges.push(start..element.end);
    }

    /// A comma of the array.
    pub(super) fn comma(&mut self, at: u64) {
        if !std::mem::take(&mut self.goes) {
            self.some_stay = true;
        } else if !self.some_stay
            && let Some(last) = self.ranges.last_mut()
        {
            last.end = at + 1;
        }
        self.comma_at = at;
    }

    /// What goes: sorted, apart from each other.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}
