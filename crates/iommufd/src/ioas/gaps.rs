//! Addresses that are free.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Disjoint free ranges, found by address and by size: a search costs a logarithm unless
/// addresses are so scarce that all of them must be tried.
#[derive(Debug, Default, Clone)]
pub(crate) struct Gaps {
    /// The last address by the first.
    ranges: BTreeMap<u64, u64>,
    /// The first addresses of ranges by the logarithm of their size.
    classes: BTreeMap<u32, BTreeSet<u64>>,
}

impl Gaps {
    /// Makes a range free that is not. What is next to it is joined.
    pub(crate) fn give(&mut self, range: RangeInclusive<u64>) {
        let (mut first, mut last) = (*range.start(), *range.end());
        let before = first.checked_sub(1);
        if let Some((&start, &end)) = self.ranges.range(..first).next_back()
            && Some(end) == before
        {
            self.remove(start, end);
            first = start;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(&end) = self.ranges.get(&next)
        {
            self.remove(next, end);
            last = end;
        }
        self.insert(first, last);
    }

    /// Makes a range not free, whatever of it was.
    pub(crate) fn take(&mut self, range: RangeInclusive<u64>) {
        let (first, last) = (*range.start(), *range.end());
        while let Some((&start, &end)) = self.ranges.range(..=last).next_back()
            && end >= first
        {
            self.remove(start, end);
            if end > last {
                self.insert(last + 1, end);
            }
            if start < first {
                self.insert(start, first - 1);
                break;
            }
        }
    }

    /// The first address of a free range of `length` bytes that is `residue` beyond a multiple of
    /// `modulus`.
    pub(crate) fn find(&self, length: u64, modulus: u64, residue: u64) -> Option<u64> {
        // A range of this size has room whatever its first address.
        let ample = length.checked_add(modulus - 1);
        if let Some(ample) = ample {
            let class = u64::BITS - (ample - 1).leading_zeros();
            let lowest = self
                .classes
                .range(class..)
                .filter_map(|(_, starts)| starts.first())
                .min();
            if let Some(&start) = lowest {
                return fit(start, *self.ranges.get(&start)?, length, modulus, residue);
            }
        }
        let candidates = self
            .classes
            .range(class(length - 1)..)
            .flat_map(|(_, starts)| starts);
        let fits = candidates
            .filter_map(|start| fit(*start, *self.ranges.get(start)?, length, modulus, residue));
        fits.min()
    }

    fn insert(&mut self, first: u64, last: u64) {
        self.ranges.insert(first, last);
        self.classes
            .entry(class(last - first))
            .or_default()
            .insert(first);
    }

    fn remove(&mut self, first: u64, last: u64) {
        self.ranges.remove(&first);
        let class = class(last - first);
        if let Some(starts) = self.classes.get_mut(&class) {
            starts.remove(&first);
            if starts.is_empty() {
                self.classes.remove(&class);
            }
        }
    }
}

/// The logarithm, rounded down, of a size that is given less one, as the whole space needs.
fn class(size_less_one: u64) -> u32 {
    match size_less_one.checked_add(1) {
        Some(size) => size.ilog2(),
        None => 64,
    }
}

/// Where the first fit in a range begins.
fn fit(first: u64, last: u64, length: u64, modulus: u64, residue: u64) -> Option<u64> {
    let short = first.wrapping_sub(residue) % modulus;
    let start = if short == 0 {
        first
    } else {
        first.checked_add(modulus - short)?
    };
    (start <= last && last - start >= length - 1).then_some(start)
}

#[cfg(test)]
mod tests;
