//! Decides which elements of an array are cut out of a text, and which commas go with them so that the rest is valid JSON.

use std::{collections::HashSet, ops::Range};

/// An element that may be cut out.
#[derive(Debug)]
struct CutElement {
    /// The index of the element in the array.
    index: usize,
    range: Range<u64>,
    /// The commas around it.
    before: Option<u64>,
    after: Option<u64>,
    /// A hash of the element's `call_id`, if it has one.
    call: Option<u64>,
    is_cut: bool,
}

/// Follows one array. Elements with the same `call_id` are cut out together, because a provider refuses an output without its
/// call.
#[derive(Debug, Default)]
pub(super) struct CutFinder {
    /// The number of commas so far, and the offset of the last comma.
    commas: usize,
    last_comma: Option<u64>,
    elements: Vec<CutElement>,
}

impl CutFinder {
    /// Adds an element of the array that ended. `is_cut`: the element is cut out.
    pub(super) fn element(&mut self, range: Range<u64>, call: Option<u64>, is_cut: bool) {
        if is_cut || call.is_some() {
            let (index, before) = (self.commas, self.last_comma);
            self.elements.push(CutElement { index, range, before, after: None, call, is_cut });
        }
    }

    /// Adds a comma of the array.
    pub(super) fn comma(&mut self, at: u64) {
        if let Some(last) = self.elements.last_mut().filter(|last| last.index == self.commas) {
            last.after = Some(at);
        }
        self.commas += 1;
        self.last_comma = Some(at);
    }

    /// Returns the bytes of memory that the elements take.
    pub(super) fn held(&self) -> usize {
        self.elements.capacity() * size_of::<CutElement>()
    }

    /// Returns the ranges to cut out, sorted and without overlap. Each range is an element with one comma.
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
            // After an element that stays, the comma before the cut element goes. Before all elements that stay, the comma after
            // it goes, if there is one.
            let some_stay = ranges.len() < element.index;
            let before = element.before.filter(|_| some_stay);
            let after = element.after.filter(|_| !some_stay);
            ranges.push(before.unwrap_or(start)..after.map_or(end, |comma| comma + 1));
        }
        ranges
    }
}
