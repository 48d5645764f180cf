//! The pages that a handle used last.
//!
//! What a handle looks up stays good while the era lasts in which it did so: whatever takes a
//! translation away is complete only after a drain, a drain begins a new era, and the access that
//! is in flight then is awaited. So a page that is remembered is used after one comparison, and
//! nothing that threads share is read for it.

use std::cell::Cell;
use std::ptr::NonNull;

use vm_iommu_spec::{Access, Iova};

use crate::IotlbEntry;

/// Pages that are remembered, a power of two.
const LINES: usize = 64;
/// Their size, as a power of two in bytes: larger pages are remembered in parts.
const SHIFT: u8 = 12;
const SIZE: u64 = 1 << SHIFT;

#[derive(Clone, Copy)]
struct Line {
    entry: IotlbEntry,
    /// The era in which it was looked up; 0 in an empty line.
    era: u64,
}

/// The pages that a handle used last, direct-mapped.
pub(super) struct Recent(Box<[Cell<Line>; LINES]>);

impl Default for Recent {
    fn default() -> Self {
        let entry = IotlbEntry {
            page: Iova(0),
            page_shift: SHIFT,
            permissions: Access::empty(),
            host: NonNull::dangling(),
        };
        let line = [(); LINES].map(|()| Cell::new(Line { entry, era: 0 }));
        Self(Box::new(line))
    }
}

impl Recent {
    #[inline]
    fn line(&self, address: Iova) -> &Cell<Line> {
        &self.0[(address.0 >> SHIFT) as usize % LINES]
    }

    /// Host memory for the `len` bytes from `address`, if one page holds them all, allows `access`
    /// and was remembered in `era`.
    #[inline]
    pub(super) fn find(
        &self,
        era: u64,
        address: Iova,
        len: usize,
        access: Access,
    ) -> Option<NonNull<u8>> {
        let Line { entry, era: found } = self.line(address).get();
        let offset = address.offset_in(SIZE);
        let hit = entry.page == address.align_down(SIZE)
            && found == era
            && entry.permissions.contains(access)
            && len as u64 <= SIZE - offset;
        // SAFETY: the page is host memory as a whole, and `offset` is within it.
        hit.then(|| unsafe { entry.host.add(offset as usize) })
    }

    /// Remembers the part of `entry` around `address`, which it holds, as it is in `era`.
    #[inline]
    pub(super) fn remember(&self, era: u64, address: Iova, entry: &IotlbEntry) {
        let page = address.align_down(SIZE);
        let offset = page.0 - entry.page.0;
        let entry = IotlbEntry {
            page,
            page_shift: SHIFT,
            permissions: entry.permissions,
            // SAFETY: the entry's page is host memory as a whole and holds `page`.
            host: unsafe { entry.host.add(offset as usize) },
        };
        self.line(address).set(Line { entry, era });
    }
}
