//! Who decodes which addresses.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A run of addresses that one BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    /// The last address.
    pub(crate) end: u64,
    pub(crate) node: usize,
    pub(crate) bar: u8,
    /// How far into the BAR the run begins.
    pub(crate) offset: u64,
}

/// Disjoint pieces in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces(Vec<Piece>);

impl Pieces {
    /// The piece that holds all `len` bytes (at least 1) from `address`.
    pub(crate) fn find(&self, address: u64, len: usize) -> Option<&Piece> {
        let after = self.0.partition_point(|piece| piece.start <= address);
        let piece = self.0.get(after.checked_sub(1)?)?;
        let last = address.checked_add((len as u64).checked_sub(1)?)?;
        (last <= piece.end).then_some(piece)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.0.iter()
    }
}

/// Collects pieces; where two overlap, the first keeps the addresses.
#[derive(Default)]
pub(crate) struct PieceBuilder(BTreeMap<u64, Piece>);

impl PieceBuilder {
    /// Adds the part of `piece` within `window` that is still free.
    pub(crate) fn insert(&mut self, piece: Piece, window: &RangeInclusive<u64>) {
        let mut cursor = piece.start.max(*window.start());
        let end = piece.end.min(*window.end());
        if cursor > end {
            return;
        }
        let before = self
            .0
            .range(..cursor)
            .next_back()
            .map(|(_, other)| other.end);
        let mut taken: Vec<(u64, u64)> = self
            .0
            .range(cursor..=end)
            .map(|(_, other)| (other.start, other.end))
            .collect();
        if let Some(last) = before.filter(|&last| last >= cursor) {
            taken.insert(0, (cursor, last));
        }
        for (start, last) in taken {
            if start > cursor {
                self.put(&piece, cursor, start - 1);
            }
            match last.checked_add(1) {
                Some(next) => cursor = next,
                None => return,
            }
        }
        if cursor <= end {
            self.put(&piece, cursor, end);
        }
    }

    fn put(&mut self, piece: &Piece, start: u64, end: u64) {
        let offset = piece.offset + (start - piece.start);
        self.0.insert(
            start,
            Piece {
                start,
                end,
                offset,
                ..*piece
            },
        );
    }

    pub(crate) fn finish(self) -> Pieces {
        Pieces(self.0.into_values().collect())
    }
}

/// The parts of `outer` (disjoint) that lie in any of `inner`, disjoint again.
pub(crate) fn intersect(
    outer: &[RangeInclusive<u64>],
    inner: impl IntoIterator<Item = RangeInclusive<u64>>,
) -> Vec<RangeInclusive<u64>> {
    let mut result: Vec<RangeInclusive<u64>> = inner
        .into_iter()
        .flat_map(|inner| {
            outer.iter().filter_map(move |outer| {
                let start = *outer.start().max(inner.start());
                let end = *outer.end().min(inner.end());
                (start <= end).then_some(start..=end)
            })
        })
        .collect();
    result.sort_by_key(|range| *range.start());
    result.dedup_by(|next, kept| {
        let joined = next.start() <= kept.end();
        if joined {
            *kept = *kept.start()..=*kept.end().max(next.end());
        }
        joined
    });
    result
}
