//! How many users each point of a line has.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// For each point from 0 to [`u64::MAX`] the number of ranges that were added over it.
///
/// A call costs the logarithm of the number of steps, and the steps it passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeCount {
    /// The count from each key to the next; before the first it is 0.
    steps: BTreeMap<u64, u64>,
}

impl RangeCount {
    /// Adds a range; yields the pieces of it that no other covers.
    pub(crate) fn add(&mut self, range: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let mut fresh = Vec::new();
        self.change(range, |piece, count| {
            if *count == 0 {
                push(&mut fresh, piece);
            }
            *count += 1;
        });
        fresh
    }

    /// Removes a range that was added; yields the pieces of it that nothing covers any more.
    pub(crate) fn remove(&mut self, range: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let mut bare = Vec::new();
        self.change(range, |piece, count| {
            debug_assert!(*count > 0, "{piece:?} was not added");
            *count = count.saturating_sub(1);
            if *count == 0 {
                push(&mut bare, piece);
            }
        });
        bare
    }

    /// The count at one point.
    pub(crate) fn at(&self, point: u64) -> u64 {
        self.steps
            .range(..=point)
            .next_back()
            .map_or(0, |(_, count)| *count)
    }

    /// Whether any point of a range is covered.
    pub(crate) fn any(&self, range: RangeInclusive<u64>) -> bool {
        self.at(*range.start()) > 0 || self.steps.range(range).any(|(_, count)| *count > 0)
    }

    /// Whether nothing is covered.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The pieces of a range that nothing covers, in ascending order.
    pub(crate) fn holes(&self, range: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (first, last) = (*range.start(), *range.end());
        let mut holes = Vec::new();
        let mut open = (self.at(first) == 0).then_some(first);
        for (&key, &count) in self
            .steps
            .range(range)
            .skip_while(|(key, _)| **key == first)
        {
            match (open, count) {
                (None, 0) => open = Some(key),
                (Some(start), 1..) => {
                    holes.push(start..=key - 1);
                    open = None;
                }
                _ => {}
            }
        }
        holes.extend(open.map(|start| start..=last));
        holes
    }

    fn change(
        &mut self,
        range: RangeInclusive<u64>,
        mut change: impl FnMut(RangeInclusive<u64>, &mut u64),
    ) {
        let (first, last) = (*range.start(), *range.end());
        if first > last {
            return;
        }
        self.split(first);
        if let Some(next) = last.checked_add(1) {
            self.split(next);
        }
        let mut steps = self.steps.range_mut(range).peekable();
        while let Some((&start, count)) = steps.next() {
            let end = steps.peek().map_or(last, |(next, _)| **next - 1);
            change(start..=end, count);
        }
        self.join(first);
        if let Some(next) = last.checked_add(1) {
            self.join(next);
        }
    }

    /// Has a step begin at a point.
    fn split(&mut self, point: u64) {
        let count = self.at(point);
        self.steps.entry(point).or_insert(count);
    }

    /// Removes the step at a point if it changes nothing.
    fn join(&mut self, point: u64) {
        let before = self
            .steps
            .range(..point)
            .next_back()
            .map_or(0, |(_, count)| *count);
        if self.steps.get(&point) == Some(&before) {
            self.steps.remove(&point);
        }
    }
}

fn push(pieces: &mut Vec<RangeInclusive<u64>>, piece: RangeInclusive<u64>) {
    match pieces.last_mut() {
        Some(previous) if previous.end().checked_add(1) == Some(*piece.start()) => {
            *previous = *previous.start()..=*piece.end();
        }
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests;
