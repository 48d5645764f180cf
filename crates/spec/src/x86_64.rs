//! Paging entries of x86-64 processors, which units share: VT-d's first stage (section 9.7,
//! "First-Stage Paging Entries") and AMD's guest translation, also called v2 (AMD 48882, section
//! 2.2.6). The Intel SDM, volume 3, section 4.5 describes what all have in common.
//!
//! Four or five levels of 512 entries of 8 bytes; the level of an entry is 1 for the entries that
//! map 4-KiB pages (PTE), then 2 (PDE), 3 (PDPE), 4 (PML4E) and 5 (PML5E).

use bitfield_struct::bitfield;

use crate::PhysAddr;

/// A paging entry, whatever its level.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PagingEntry {
    /// P: the entry is present; otherwise all its other bits are ignored.
    pub present: bool,
    /// R/W: writes are permitted.
    pub writable: bool,
    /// U/S: requests with user privilege are permitted.
    pub user: bool,
    /// PWT, a bit of the memory type index.
    pub write_through: bool,
    /// PCD, a bit of the memory type index.
    pub cache_disable: bool,
    /// A: the entry was used.
    pub accessed: bool,
    /// D: the page was written; in entries that map a page.
    pub dirty: bool,
    /// PS: the entry maps a page, at levels 2 and 3. At level 1 it is PAT, a bit of the memory
    /// type index; at levels 4 and 5 it is reserved.
    pub page_size: bool,
    /// G: the translation is global; in entries that map a page.
    pub global: bool,
    #[bits(1)]
    _ignored9: u8,
    /// EA: a device used the entry, if the PASID entry enables extended accessed flags (VT-d).
    pub extended_accessed: bool,
    #[bits(1)]
    _ignored11: u8,
    /// Bits 51:12 of the address of the table or page. Bit 12 is PAT in the entry of a large
    /// page.
    #[bits(40)]
    frame: u64,
    #[bits(11)]
    _ignored52: u16,
    /// XD: instruction fetches are not permitted; reserved where the unit does not support it.
    pub execute_disable: bool,
}

impl PagingEntry {
    /// The P field as a mask.
    pub const PRESENT: u64 = 1;
    /// The R/W field as a mask.
    pub const WRITABLE: u64 = 1 << 1;
    /// The U/S field as a mask.
    pub const USER: u64 = 1 << 2;
    /// The A field as a mask.
    pub const ACCESSED: u64 = 1 << 5;
    /// The D field as a mask.
    pub const DIRTY: u64 = 1 << 6;
    /// The PS field as a mask.
    pub const PAGE_SIZE: u64 = 1 << 7;
    /// The PAT field of an entry of level 1 as a mask.
    pub const PAT: u64 = 1 << 7;
    /// The G field as a mask.
    pub const GLOBAL: u64 = 1 << 8;
    /// The EA field as a mask.
    pub const EXTENDED_ACCESSED: u64 = 1 << 10;
    /// The PAT field of the entry of a large page as a mask.
    pub const LARGE_PAT: u64 = 1 << 12;
    /// Bits 51:12, of which an address may use those below the host address width.
    pub const FRAME: u64 = ((1 << 40) - 1) << 12;
    /// The XD field as a mask.
    pub const EXECUTE_DISABLE: u64 = 1 << 63;

    /// The address of the table, or of the 4-KiB page; a larger page's address has PAT and
    /// reserved bits in its lower part.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.into_bits() & Self::FRAME)
    }

    /// The entry with bits 51:12 of `address` in it; the others are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        Self::from_bits(self.into_bits() & !Self::FRAME | address.0 & Self::FRAME)
    }
}
