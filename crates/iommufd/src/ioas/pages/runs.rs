//! Where pinned pages are.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_spec::PhysAddr;

use super::Slice;
use crate::caller::PAGE_SIZE;
use crate::memory::{Placed, Run};

/// Pinned pages in runs, by the first page of each.
#[derive(Default)]
pub(super) struct Runs(BTreeMap<u64, Placed>);

impl Runs {
    /// Adds a run that begins at a page.
    pub(super) fn insert(&mut self, page: u64, placed: Placed) {
        self.0.insert(page, placed);
    }

    /// Takes pages out, cutting the runs that pass the ends.
    pub(super) fn take(&mut self, pages: RangeInclusive<u64>) -> Vec<Placed> {
        self.cut(*pages.start());
        self.cut(pages.end() + 1);
        let keys: Vec<u64> = self.0.range(pages).map(|(key, _)| *key).collect();
        keys.into_iter()
            .filter_map(|key| self.0.remove(&key))
            .collect()
    }

    /// Has a run begin at a page.
    fn cut(&mut self, page: u64) {
        let Some((&first, placed)) = self.0.range_mut(..page).next_back() else {
            return;
        };
        let before = (page - first) * PAGE_SIZE;
        if placed.run.length <= before {
            return;
        }
        let rest = Placed {
            address: PhysAddr(placed.address.0 + before),
            run: Run {
                length: placed.run.length - before,
                backing: Arc::clone(&placed.run.backing),
                offset: placed.run.offset + before,
            },
        };
        placed.run.length = before;
        self.0.insert(page, rest);
    }

    /// The pinned pieces of a slice, each with the byte of the pages at which it begins.
    pub(super) fn with_start(&self, slice: Slice) -> impl Iterator<Item = (u64, Placed)> + '_ {
        let end = slice.start + slice.length;
        let pages = slice.pages();
        let from = self
            .0
            .range(..=*pages.start())
            .next_back()
            .map_or(*pages.start(), |(k, _)| *k);
        self.0
            .range(from..=*pages.end())
            .filter_map(move |(&first, placed)| {
                let start = first * PAGE_SIZE;
                let (begin, stop) = (start.max(slice.start), (start + placed.run.length).min(end));
                (begin < stop).then(|| {
                    let skip = begin - start;
                    let run = Run {
                        length: stop - begin,
                        backing: Arc::clone(&placed.run.backing),
                        offset: placed.run.offset + skip,
                    };
                    (
                        begin,
                        Placed {
                            address: PhysAddr(placed.address.0 + skip),
                            run,
                        },
                    )
                })
            })
    }

    pub(super) fn placed(&self, slice: Slice) -> Vec<Placed> {
        self.with_start(slice).map(|(_, placed)| placed).collect()
    }

    /// The physical addresses of a slice that is pinned, in as few pieces as they allow.
    pub(super) fn segments(&self, slice: Slice) -> Vec<(PhysAddr, u64)> {
        let mut segments: Vec<(PhysAddr, u64)> = Vec::new();
        for (_, placed) in self.with_start(slice) {
            match segments.last_mut() {
                Some((address, length)) if address.0 + *length == placed.address.0 => {
                    *length += placed.run.length;
                }
                _ => segments.push((placed.address, placed.run.length)),
            }
        }
        segments
    }
}
