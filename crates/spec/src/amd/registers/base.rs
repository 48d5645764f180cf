//! Where tables, buffers and logs are.

use core::ops::RangeInclusive;

use bitfield_struct::bitfield;

use crate::{Iova, PhysAddr};

/// Device Table Base Address Register, and those of segments 1 to 7 (MMIO offsets 0000h and
/// 0100h to 0130h).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTableBase {
    /// Size, 9 bits: the table has (n + 1) × 4 KiB. In a segment's register, 8 bits.
    #[bits(9)]
    pub size: u16,
    #[bits(3)]
    __: u8,
    #[bits(40)]
    frame: u64,
    #[bits(12)]
    __: u16,
}

impl DeviceTableBase {
    /// DevTabBase: the address of the table.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the table at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    /// The number of entries, 128 to 65536, each of 32 bytes.
    pub const fn entries(self) -> u32 {
        (self.size() as u32 + 1) * 128
    }
}

/// Command Buffer, Event Log, PPR Log and GA Log Base Address Registers (MMIO offsets 0008h,
/// 0010h, 0038h and 00E0h).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RingBase {
    #[bits(12)]
    __: u16,
    #[bits(40)]
    frame: u64,
    #[bits(4)]
    __: u8,
    /// Length, 4 bits: 2^n entries for n from 8 to 15; other encodings are reserved.
    #[bits(4)]
    pub length: u8,
    #[bits(4)]
    __: u8,
}

impl RingBase {
    /// The address of the first entry.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the first entry at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    /// The number of entries, 256 to 32768; `None` for reserved encodings.
    pub const fn entries(self) -> Option<u32> {
        match self.length() {
            0..=7 => None,
            length => Some(1 << length),
        }
    }
}

/// Exclusion Base Register (MMIO offset 0020h).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExclusionBase {
    /// ExEn: the range is in force.
    pub enable: bool,
    /// Allow: for all devices, not only those whose device table entry has EX set.
    pub allow: bool,
    #[bits(10)]
    __: u16,
    #[bits(40)]
    frame: u64,
    #[bits(12)]
    __: u16,
}

impl ExclusionBase {
    /// The first address of the range.
    pub const fn address(self) -> Iova {
        Iova(self.frame() << 12)
    }

    /// The same with the range beginning at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_address(self, address: Iova) -> Self {
        self.with_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    /// The range, whose last address is `limit`, the Exclusion Range Limit Register (MMIO offset
    /// 0028h), with bits 11:0 set.
    pub const fn range(self, limit: u64) -> RangeInclusive<Iova> {
        self.address()..=Iova(limit & ((1 << 52) - 1) | 0xfff)
    }
}
