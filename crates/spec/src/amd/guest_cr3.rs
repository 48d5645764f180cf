//! Guest CR3 tables (section 2.2.6.3).
//!
//! One to three levels: the lowest two translate nine bits of the PASID each, the highest two.

use bitfield_struct::bitfield;

use crate::PhysAddr;
use crate::amd::FaultReason;

/// An entry of a guest CR3 table: it points to a lower table, or at the lowest level to the
/// guest page tables of a PASID.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct GuestCr3Entry {
    /// V: valid.
    pub valid: bool,
    #[bits(2)]
    __: u8,
    /// PWT, without meaning to a unit; reserved above the lowest level.
    pub write_through: bool,
    /// PCD, likewise.
    pub cache_disable: bool,
    #[bits(7)]
    __: u8,
    #[bits(40)]
    frame: u64,
    #[bits(12)]
    __: u16,
}

impl GuestCr3Entry {
    /// The reserved bits of an entry of the lowest level.
    pub const RESERVED: u64 = 0xfff0_0000_0000_0fe6;
    /// The reserved bits of an entry above.
    pub const RESERVED_TABLE: u64 = Self::RESERVED | 0x18;

    /// The address of the table.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the table at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    /// The address of the table, once the entry, at `level` (1 for the lowest), proved valid.
    ///
    /// # Errors
    /// [`FaultReason::PasidInvalid`] and [`FaultReason::Reserved`].
    pub const fn check(self, level: u8) -> Result<PhysAddr, FaultReason> {
        let reserved = if level > 1 {
            Self::RESERVED_TABLE
        } else {
            Self::RESERVED
        };
        if !self.valid() {
            Err(FaultReason::PasidInvalid)
        } else if self.into_bits() & reserved != 0 {
            Err(FaultReason::Reserved)
        } else {
            Ok(self.address())
        }
    }

    /// Where the entry for `pasid` is in a table of `level`, in bytes from its start.
    pub const fn offset(pasid: u32, level: u8) -> u64 {
        let index = match level {
            0 | 1 => pasid & 0x1ff,
            2 => pasid >> 9 & 0x1ff,
            _ => pasid >> 18 & 0x3,
        };
        index as u64 * 8
    }

    /// How many bits of a PASID tables with `levels` levels translate.
    pub const fn pasid_width(levels: u8) -> u8 {
        match levels {
            0 | 1 => 9,
            2 => 18,
            _ => 20,
        }
    }
}
