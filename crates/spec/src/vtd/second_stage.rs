//! Second-stage paging entries (section 9.8, "Second-Stage Paging Entries").
//!
//! Three, four or five levels of 512 entries of 8 bytes; the level of an entry is 1 for the
//! entries that map 4-KiB pages (SS-PTE), then 2 (SS-PDE), 3 (SS-PDPE), 4 (SS-PML4E) and
//! 5 (SS-PML5E).

use bitfield_struct::bitfield;

use crate::PhysAddr;

/// A second-stage paging entry, whatever its level.
///
/// An entry whose permissions are all clear is not present; all its other bits are ignored.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SecondStageEntry {
    /// R: reads are permitted.
    pub read: bool,
    /// W: writes are permitted.
    pub write: bool,
    /// X: instruction fetches are permitted; ignored unless the PASID entry enables execute
    /// permission in the second stage.
    pub execute: bool,
    /// EMT, 3 bits: the memory type of the page; meaningful in entries that map a page.
    #[bits(3)]
    pub memory_type: u8,
    /// IPAT: the memory type overrides the first stage's; in entries that map a page.
    pub ignore_pat: bool,
    /// PS: the entry maps a page; at levels 2 and 3. Ignored at level 1.
    pub page_size: bool,
    /// A: the entry was used, if the PASID entry enables accessed and dirty flags.
    pub accessed: bool,
    /// D: the page was written, likewise; in entries that map a page.
    pub dirty: bool,
    #[bits(1)]
    _ignored10: u8,
    /// SNP: accesses to the page snoop processor caches; in entries that map a page, reserved
    /// where ECAP.SC is clear.
    pub snoop: bool,
    /// Bits 51:12 of the address of the table or page.
    #[bits(40)]
    frame: u64,
    #[bits(10)]
    _ignored52: u16,
    /// TM: the mapping is transient; in entries that map a page, reserved unless the unit has
    /// device-TLBs and an architecture revision that defines the field.
    pub transient: bool,
    #[bits(1)]
    _ignored63: u8,
}

impl SecondStageEntry {
    /// The bits that software may set in any entry without effect: 63 and 61:52, 10.
    pub const IGNORED: u64 = 1 << 63 | 0x3ff << 52 | 1 << 10;
    /// The R, W and X fields as a mask.
    pub const PERMISSIONS: u64 = 7;
    /// The R field as a mask.
    pub const READ: u64 = 1;
    /// The W field as a mask.
    pub const WRITE: u64 = 1 << 1;
    /// The X field as a mask.
    pub const EXECUTE: u64 = 1 << 2;
    /// The EMT and IPAT fields as a mask.
    pub const MEMORY_TYPE: u64 = 0xf << 3;
    /// The PS field as a mask.
    pub const PAGE_SIZE: u64 = 1 << 7;
    /// The A field as a mask.
    pub const ACCESSED: u64 = 1 << 8;
    /// The D field as a mask.
    pub const DIRTY: u64 = 1 << 9;
    /// The SNP field as a mask.
    pub const SNOOP: u64 = 1 << 11;
    /// Bits 51:12, of which an address may use those below the host address width.
    pub const FRAME: u64 = ((1 << 40) - 1) << 12;
    /// The TM field as a mask.
    pub const TRANSIENT: u64 = 1 << 62;

    /// The address of the table, or of the 4-KiB page; a larger page's address has reserved bits
    /// in its lower part.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.into_bits() & Self::FRAME)
    }

    /// The entry with bits 51:12 of `address` in it; the others are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        Self::from_bits(self.into_bits() & !Self::FRAME | address.0 & Self::FRAME)
    }
}
