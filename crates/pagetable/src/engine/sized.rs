//! What formats share: the address field, and entries that say by a PS field that they map a page.

use super::{Next, entry_reach};
use crate::walk::Reason;

/// The PS field. At level 1 it means something else, or nothing.
const PAGE_SIZE: u64 = 1 << 7;

/// The address field of an entry, in all formats.
const FRAME: u64 = ((1 << 40) - 1) << 12;

/// The address bits of an entry that are reserved because the unit's addresses are `width` bits
/// wide. A width outside of 12 to 52 counts as the nearer of these.
pub(crate) const fn beyond_width(width: u8) -> u64 {
    let width = match width {
        0..=12 => 12,
        width @ 13..=51 => width,
        _ => 52,
    };
    FRAME & !((1 << width) - 1)
}

/// Which entries map pages, and which bits of an entry are reserved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizedEntries {
    /// By level, the bits reserved in an entry that points to a table; PS is one of them.
    table: [u64; 8],
    /// By level, the bits reserved in an entry that maps a page.
    page: [u64; 8],
    /// A bit for each level above 1 whose entries may map pages.
    large: u8,
}

impl SizedEntries {
    /// For an address width, the bits reserved in entries that point to tables and in those that
    /// map pages, besides address bits beyond the width or below a page's size, and which large
    /// pages there are. Bits that are `defined` are not reserved in a large page's entry, although
    /// they are below its size.
    pub const fn new(
        width: u8,
        table: u64,
        page: u64,
        defined: u64,
        two_mib_pages: bool,
        one_gib_pages: bool,
    ) -> Self {
        let beyond = beyond_width(width);
        let mut entries = Self {
            table: [beyond | table | PAGE_SIZE; 8],
            page: [beyond | page; 8],
            large: (two_mib_pages as u8) << 2 | (one_gib_pages as u8) << 3,
        };
        let mut level = 2;
        while level < 6 {
            let below = FRAME & ((1 << entry_reach(level as u8)) - 1);
            entries.page[level] |= below & !defined;
            level += 1;
        }
        entries
    }

    /// Whether entries of `level` may map pages.
    pub const fn may_map(&self, level: u8) -> bool {
        level == 1 || self.large >> (level & 7) & 1 != 0
    }

    /// Decodes and checks a present entry. What points to a table comes first, by the one check
    /// that it takes: most entries of a walk do.
    #[inline(always)]
    pub const fn decode(&self, level: u8, entry: u64) -> Result<Next, Reason> {
        let at = (level & 7) as usize;
        if level > 1 {
            let reserved = entry & self.table[at];
            if reserved == 0 {
                return Ok(Next::Table {
                    address: entry & FRAME,
                    level: level - 1,
                });
            }
            if entry & PAGE_SIZE == 0 || !self.may_map(level) {
                return Err(lowest(reserved));
            }
        }
        let reserved = entry & self.page[at];
        if reserved != 0 {
            return Err(lowest(reserved));
        }
        let shift = entry_reach(level);
        Ok(Next::Page {
            address: entry & FRAME & !((1 << shift) - 1),
            shift,
        })
    }
}

/// The fault of these reserved bits.
const fn lowest(reserved: u64) -> Reason {
    Reason::Reserved {
        bit: reserved.trailing_zeros() as u8,
    }
}
