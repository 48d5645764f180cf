//! The pages that a handle used before.
//!
//! What a handle looks up stays good while the era lasts in which it did so: whatever takes a
//! translation away is complete only after a drain, a drain begins a new era, and the access that
//! is in flight then is awaited. So a page that is remembered is used after two comparisons, and
//! nothing that threads share is read for it.

use std::cell::Cell;
use std::ptr::NonNull;

use vm_iommu_spec::{Access, Iova};

use crate::IotlbEntry;

/// The size of the pages, a power of two in bytes: larger ones are remembered in parts.
const SHIFT: u8 = 12;
const SIZE: u64 = 1 << SHIFT;
/// The bits of a word that belong to an address of a page.
const PAGE_MASK: u64 = !(SIZE - 1);
/// Eras that are told apart; after as many the lines are emptied. Mark 0 is that of empty lines.
const MARKS: u64 = SIZE - 1;

/// One page.
#[derive(Clone, Copy, Default)]
#[repr(align(16))]
struct Line {
    /// The input address, with the mark of the era in which it was looked up below.
    page: u64,
    /// The host address, with the permissions below.
    host: u64,
}

/// The pages that a handle used before, direct-mapped.
pub(super) struct Recent {
    /// As many as a power of two.
    lines: Box<[Cell<Line>]>,
    /// The mark of the era.
    mark: Cell<u64>,
    /// How often the marks came round.
    round: Cell<u64>,
}

impl Recent {
    /// Room for `pages` pages, rounded up to a power of two.
    pub(super) fn new(pages: usize) -> Self {
        let lines = (0..pages.next_power_of_two()).map(|_| Cell::default());
        Self {
            lines: lines.collect(),
            mark: Cell::new(1),
            round: Cell::new(0),
        }
    }

    /// Says which era it is: nothing that was remembered in another is found from now on. False if
    /// the marks came round: then [`empty`](Self::empty) must be called before.
    #[must_use]
    pub(super) fn begin(&self, era: u64) -> bool {
        self.mark.set(era % MARKS + 1);
        self.round.get() == era / MARKS
    }

    /// Forgets all pages, as far as the marks of `era` and those that follow it are concerned.
    pub(super) fn empty(&self, era: u64) {
        self.round.set(era / MARKS);
        self.lines.iter().for_each(|line| line.set(Line::default()));
    }

    #[inline]
    fn line(&self, address: Iova) -> Option<&Cell<Line>> {
        let index = (address.0 >> SHIFT) as usize;
        self.lines.get(index & self.lines.len().wrapping_sub(1))
    }

    /// Host memory for the `len` bytes from `address`, if one page holds them all, allows `access`
    /// and was remembered in this era.
    #[inline]
    pub(super) fn find(&self, address: Iova, len: usize, access: Access) -> Option<NonNull<u8>> {
        let line = self.line(address)?.get();
        let offset = address.offset_in(SIZE);
        let hit = line.page == address.0 - offset + self.mark.get()
            && Access::from_bits_retain(line.host as u8).contains(access)
            && len as u64 <= SIZE - offset;
        if !hit {
            return None;
        }
        NonNull::new(((line.host & PAGE_MASK) + offset) as *mut u8)
    }

    /// Remembers the part of `entry` around `address`, which it holds. Host memory that does not
    /// begin at a multiple of 4 KiB is not remembered.
    #[inline]
    pub(super) fn remember(&self, address: Iova, entry: &IotlbEntry) {
        let page = address.align_down(SIZE);
        let host = entry.host.as_ptr().addr() as u64 + (page.0 - entry.page.0);
        if host & !PAGE_MASK != 0 {
            return;
        }
        if let Some(line) = self.line(address) {
            line.set(Line {
                page: page.0 + self.mark.get(),
                host: host | u64::from(entry.permissions.bits()),
            });
        }
    }
}
