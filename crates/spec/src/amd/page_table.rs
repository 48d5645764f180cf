//! Page-table entries for host translation, also called v1 (section 2.2.3, "I/O Page Tables for
//! Host Translations").
//!
//! One to six levels of 512 entries of 8 bytes. An entry names the level of the table that it
//! points to, and may skip levels.

use bitfield_struct::bitfield;

use crate::PhysAddr;

/// A page-table entry: a page directory entry (PDE), which points to a table, or a page
/// translation entry (PTE), which maps a page.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HostPagingEntry {
    /// PR: the entry is present; otherwise all its other bits are ignored.
    pub present: bool,
    #[bits(4)]
    _ignored1: u8,
    /// A: the entry was used, if the device table entry enables it.
    pub accessed: bool,
    /// D: the page was written, likewise; in a PTE.
    pub dirty: bool,
    #[bits(2)]
    _ignored7: u8,
    /// Next Level, 3 bits: the level of the table, 1 to 6; 0 in a PTE whose page has the size of
    /// its level, 7 in a PTE whose address encodes the page's size.
    #[bits(3)]
    pub next_level: u8,
    /// Bits 51:12 of the address of the table or page.
    #[bits(40)]
    frame: u64,
    #[bits(7)]
    _reserved52: u8,
    /// U: the bit of an ATS response that limits the translation to untranslated requests; in a
    /// PTE, reserved in a PDE.
    pub untranslated_only: bool,
    /// FC: accesses snoop processor caches; in a PTE, reserved in a PDE.
    pub force_coherent: bool,
    /// IR: reads are permitted.
    pub read: bool,
    /// IW: writes are permitted.
    pub write: bool,
    #[bits(1)]
    _ignored63: u8,
}

impl HostPagingEntry {
    /// The PR field as a mask.
    pub const PRESENT: u64 = 1;
    /// The A field as a mask.
    pub const ACCESSED: u64 = 1 << 5;
    /// The D field as a mask.
    pub const DIRTY: u64 = 1 << 6;
    /// The Next Level field as a mask.
    pub const NEXT_LEVEL: u64 = 7 << 9;
    /// The position of the Next Level field.
    pub const NEXT_LEVEL_SHIFT: u32 = 9;
    /// Bits 51:12.
    pub const FRAME: u64 = ((1 << 40) - 1) << 12;
    /// The bits that are reserved in a PTE: 58:52.
    pub const RESERVED_PAGE: u64 = 0x7f << 52;
    /// The bits that are reserved in a PDE: 60:52.
    pub const RESERVED_TABLE: u64 = 0x1ff << 52;
    /// The U field as a mask.
    pub const UNTRANSLATED_ONLY: u64 = 1 << 59;
    /// The FC field as a mask.
    pub const FORCE_COHERENT: u64 = 1 << 60;
    /// The IR field as a mask.
    pub const READ: u64 = 1 << 61;
    /// The IW field as a mask.
    pub const WRITE: u64 = 1 << 62;

    /// The address of the table, or of the page of a PTE with Next Level 0; one with Next Level
    /// 7 has the page's size in the lower part.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.into_bits() & Self::FRAME)
    }

    /// The entry with bits 51:12 of `address` in it; the others are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        Self::from_bits(self.into_bits() & !Self::FRAME | address.0 & Self::FRAME)
    }
}
