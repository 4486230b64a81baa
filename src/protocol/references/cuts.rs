//! Which elements of an array are cut out of a text, and what has to go with each so that the rest is still JSON.

use std::{collections::HashSet, ops::Range};

/// An element that may be cut out.
#[derive(Debug)]
struct CutElement {
    /// Its place in the array.
    index: usize,
    range: Range<u64>,
    /// The commas around it.
    before: Option<u64>,
    after: Option<u64>,
    /// A number that belongs to its `call_id`, if it has one.
    call: Option<u64>,
    is_cut: bool,
}

/// Follows one array, whose elements are cut out together with others of the same call: a provider refuses an output without its
/// call.
#[derive(Debug, Default)]
pub(super) struct CutFinder {
    /// Commas so far, and the last of them.
    commas: usize,
    last_comma: Option<u64>,
    elements: Vec<CutElement>,
}

impl CutFinder {
    /// An element of the array is over; `is_cut` says that it is cut out.
    pub(super) fn element(&mut self, range: Range<u64>, call: Option<u64>, is_cut: bool) {
        if is_cut || call.is_some() {
            let (index, before) = (self.commas, self.last_comma);
            self.elements.push(CutElement { index, range, before, after: None, call, is_cut });
        }
    }

    /// A comma of the array.
    pub(super) fn comma(&mut self, at: u64) {
        if let Some(last) = self.elements.last_mut().filter(|last| last.index == self.commas) {
            last.after = Some(at);
        }
        self.commas += 1;
        self.last_comma = Some(at);
    }

    /// Bytes of memory that this takes.
    pub(super) fn held(&self) -> usize {
        self.elements.capacity() * size_of::<CutElement>()
    }

    /// The ranges that are cut out: each an element with one comma; sorted, apart from each other.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let cut = || self.elements.iter().filter(|element| element.is_cut);
        if cut().next().is_none() {
            return Vec::new();
        }
        let calls: HashSet<u64> = cut().filter_map(|element| element.call).collect();
        let of_call = |element: &CutElement| element.call.is_some_and(|call| calls.contains(&call));
        let mut ranges = Vec::new();
        for element in self.elements.iter().filter(|element| element.is_cut || of_call(element)) {
            let Range { start, end } = element.range;
            // Behind an element that stays, the comma between the two goes; in front of all that stay, the next one, if there is one.
            let some_stay = ranges.len() < element.index;
            let before = element.before.filter(|_| some_stay);
            let after = element.after.filter(|_| !some_stay);
            ranges.push(before.unwrap_or(start)..after.map_or(end, |comma| comma + 1));
        }
        ranges
    }
}
