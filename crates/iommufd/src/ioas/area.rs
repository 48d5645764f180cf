//! One contiguous mapping.

use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;
use vm_iommu_spec::Access;

use super::pages::Mode;
use super::{Pages, Slice};
use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::limit::Room;

/// A slice of pages at an address (Linux `iopt_area`).
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) first: u64,
    pub(crate) pages: Arc<Pages>,
    pub(crate) slice: Slice,
    pub(crate) access: Access,
    /// How many accesses have pages of it pinned.
    pub(crate) accesses: u32,
    /// How many of them forbid to unmap it.
    pub(crate) locks: u32,
    /// It is about to be unmapped: no more pages are given out.
    pub(crate) closing: bool,
    /// What it takes of the context's areas.
    pub(crate) room: Room,
}

impl Area {
    /// The last address.
    pub(crate) fn last(&self) -> u64 {
        self.first + (self.slice.length - 1)
    }

    pub(crate) fn range(&self) -> RangeInclusive<u64> {
        self.first..=self.last()
    }

    /// The slice of the pages that is at some of the addresses.
    pub(crate) fn slice_at(&self, range: &RangeInclusive<u64>) -> Slice {
        let first = self.first.max(*range.start());
        let last = self.last().min(*range.end());
        Slice {
            start: self.slice.start + (first - self.first),
            length: last - first + 1,
        }
    }

    /// How far the first byte is from the beginning of its page.
    pub(crate) fn page_offset(&self) -> u64 {
        self.slice.start % PAGE_SIZE
    }

    pub(super) fn fill(&self, domain: &Arc<dyn Domain>, large_pages: bool) -> Result<(), Errno> {
        let mode = Mode {
            access: self.access,
            large_pages,
        };
        self.pages.fill(domain, self.first, self.slice, mode)
    }

    pub(super) fn unfill(&self, domain: &Arc<dyn Domain>) {
        self.pages.unfill(domain, self.first, self.slice);
    }
}
