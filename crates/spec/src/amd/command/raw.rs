//! The bits of commands: the lower 64 in the types here, the upper 64 as noted.

use core::ops::RangeInclusive;

use bitfield_struct::bitfield;

use super::CommandRules;
use crate::{Iova, PhysAddr};

/// The opcode of COMPLETION_WAIT.
pub const COMPLETION_WAIT: u8 = 1;
/// The opcode of INVALIDATE_DEVTAB_ENTRY.
pub const INVALIDATE_DEVTAB_ENTRY: u8 = 2;
/// The opcode of INVALIDATE_IOMMU_PAGES.
pub const INVALIDATE_IOMMU_PAGES: u8 = 3;
/// The opcode of INVALIDATE_IOTLB_PAGES.
pub const INVALIDATE_IOTLB_PAGES: u8 = 4;
/// The opcode of INVALIDATE_INTERRUPT_TABLE.
pub const INVALIDATE_INTERRUPT_TABLE: u8 = 5;
/// The opcode of PREFETCH_IOMMU_PAGES.
pub const PREFETCH_IOMMU_PAGES: u8 = 6;
/// The opcode of COMPLETE_PPR_REQUEST.
pub const COMPLETE_PPR_REQUEST: u8 = 7;
/// The opcode of INVALIDATE_IOMMU_ALL.
pub const INVALIDATE_IOMMU_ALL: u8 = 8;

/// Size of a command in bytes.
pub const SIZE: u64 = 16;

/// The opcode, 4 bits: bits 63:60 of the lower half.
pub const fn opcode(low: u64) -> u8 {
    (low >> 60) as u8
}

/// The reserved bits of both halves of a command.
pub(super) const fn reserved(opcode: u8, rules: &CommandRules) -> [u64; 2] {
    /// Bits of a range of positions, both included.
    const fn bits(first: u32, last: u32) -> u64 {
        u64::MAX >> (63 - (last - first)) << first
    }
    let guest = rules.guest_translation;
    // GN, in the upper half.
    let gn = if guest { 0 } else { 1 << 2 };
    match opcode {
        COMPLETION_WAIT => [bits(52, 59), 0],
        INVALIDATE_DEVTAB_ENTRY | INVALIDATE_INTERRUPT_TABLE => [bits(16, 59), u64::MAX],
        INVALIDATE_IOMMU_PAGES => {
            let pasid = if guest { 0 } else { bits(0, 19) };
            [pasid | bits(20, 31) | bits(48, 59), gn | bits(3, 11)]
        }
        INVALIDATE_IOTLB_PAGES => {
            let pasid = if guest {
                0
            } else {
                bits(16, 23) | bits(48, 59)
            };
            let kind = if rules.invalidate_iotlb_type {
                0
            } else {
                bits(4, 5)
            };
            [pasid, gn | kind | 1 << 1 | 1 << 3 | bits(6, 11)]
        }
        PREFETCH_IOMMU_PAGES => {
            let pasid = if guest { 0 } else { bits(32, 51) };
            [
                pasid | bits(16, 23) | bits(52, 59),
                gn | 1 << 1 | 1 << 3 | bits(5, 11),
            ]
        }
        COMPLETE_PPR_REQUEST => {
            let pasid = if guest { 0 } else { bits(32, 51) };
            [
                pasid | bits(16, 31) | bits(52, 59),
                gn | bits(0, 1) | bits(3, 31) | bits(48, 63),
            ]
        }
        _ => [bits(0, 59), u64::MAX],
    }
}

/// COMPLETION_WAIT (section 2.4.1); the upper half is the data to store.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CompletionWait {
    /// s: store the data.
    pub store: bool,
    /// i: raise an interrupt.
    pub interrupt: bool,
    /// f: later commands begin after this one.
    pub flush: bool,
    #[bits(49)]
    place: u64,
    #[bits(8)]
    __: u8,
    /// The opcode, [`COMPLETION_WAIT`].
    #[bits(4, default = COMPLETION_WAIT)]
    pub opcode: u8,
}

impl CompletionWait {
    /// Store Address: a multiple of 8.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.place() << 3)
    }

    /// The same with the data stored at `address`, whose bits 2:0 and 63:52 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_place(address.0 >> 3 & ((1 << 49) - 1))
    }
}

/// INVALIDATE_DEVTAB_ENTRY and INVALIDATE_INTERRUPT_TABLE (sections 2.4.2 and 2.4.5); the upper
/// half is reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateDevice {
    /// DeviceID, 16 bits.
    pub device: u16,
    #[bits(44)]
    __: u64,
    /// The opcode, [`INVALIDATE_DEVTAB_ENTRY`] or [`INVALIDATE_INTERRUPT_TABLE`].
    #[bits(4, default = INVALIDATE_DEVTAB_ENTRY)]
    pub opcode: u8,
}

/// INVALIDATE_IOMMU_PAGES (section 2.4.3); the upper half is a [`PageSelector`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidatePages {
    /// PASID, 20 bits.
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
    /// DomainID, 16 bits.
    pub domain: u16,
    #[bits(12)]
    __: u16,
    /// The opcode, [`INVALIDATE_IOMMU_PAGES`].
    #[bits(4, default = INVALIDATE_IOMMU_PAGES)]
    pub opcode: u8,
}

/// INVALIDATE_IOTLB_PAGES (section 2.4.4); the upper half is a [`PageSelector`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateIotlb {
    /// DeviceID, 16 bits.
    pub device: u16,
    /// Bits 15:8 of the PASID.
    #[bits(8)]
    pasid_middle: u32,
    /// Maxpend, 8 bits.
    pub max_pending: u8,
    /// QueueID, 16 bits.
    pub queue: u16,
    /// Bits 7:0 of the PASID.
    #[bits(8)]
    pasid_low: u32,
    /// Bits 19:16 of the PASID.
    #[bits(4)]
    pasid_high: u32,
    /// The opcode, [`INVALIDATE_IOTLB_PAGES`].
    #[bits(4, default = INVALIDATE_IOTLB_PAGES)]
    pub opcode: u8,
}

impl InvalidateIotlb {
    /// The PASID, 20 bits.
    pub const fn pasid(self) -> u32 {
        self.pasid_high() << 16 | self.pasid_middle() << 8 | self.pasid_low()
    }

    /// The same with another PASID, of which 20 bits count.
    pub const fn with_pasid(self, pasid: u32) -> Self {
        self.with_pasid_high(pasid >> 16 & 0xf)
            .with_pasid_middle(pasid >> 8 & 0xff)
            .with_pasid_low(pasid & 0xff)
    }
}

/// PREFETCH_IOMMU_PAGES (section 2.4.6); the upper half is a [`PageSelector`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Prefetch {
    /// DeviceID, 16 bits.
    pub device: u16,
    #[bits(8)]
    __: u8,
    /// PFCount, 8 bits.
    pub count: u8,
    /// PASID, 20 bits.
    #[bits(20)]
    pub pasid: u32,
    #[bits(8)]
    __: u8,
    /// The opcode, [`PREFETCH_IOMMU_PAGES`].
    #[bits(4, default = PREFETCH_IOMMU_PAGES)]
    pub opcode: u8,
}

/// COMPLETE_PPR_REQUEST (section 2.4.7); the upper half has GN in bit 2 and CompletionTag in bits
/// 47:32.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CompletePpr {
    /// DeviceID, 16 bits.
    pub device: u16,
    #[bits(16)]
    __: u16,
    /// PASID, 20 bits.
    #[bits(20)]
    pub pasid: u32,
    #[bits(8)]
    __: u8,
    /// The opcode, [`COMPLETE_PPR_REQUEST`].
    #[bits(4, default = COMPLETE_PPR_REQUEST)]
    pub opcode: u8,
}

/// INVALIDATE_IOMMU_ALL (section 2.4.8); the upper half is reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateAll {
    #[bits(60)]
    __: u64,
    /// The opcode, [`INVALIDATE_IOMMU_ALL`].
    #[bits(4, default = INVALIDATE_IOMMU_ALL)]
    pub opcode: u8,
}

/// Which pages a command is about: its upper half.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageSelector {
    /// S: the address encodes the size of a range; otherwise one page of 4 KiB.
    pub size: bool,
    /// PDE: not only entries that map pages changed (INVALIDATE_IOMMU_PAGES).
    pub directories: bool,
    /// GN: addresses are guest virtual, of the PASID.
    pub guest: bool,
    #[bits(1)]
    __: u8,
    /// Inval: what is cached is dropped before (PREFETCH_IOMMU_PAGES); else bit 0 of Type.
    pub invalidate: bool,
    #[bits(7)]
    __: u8,
    /// Bits 63:12 of the address.
    #[bits(52)]
    frame: u64,
}

impl PageSelector {
    /// The page, or with S set, the smallest range that begins at a multiple of its size, a power
    /// of two, and holds `range`.
    pub const fn of_range(range: &RangeInclusive<Iova>) -> Self {
        let (first, last) = (range.start().0, range.end().0);
        if first >> 12 == last >> 12 {
            return Self::new().with_frame(first >> 12);
        }
        // The bit below the highest that differs is the first clear one.
        let differs = 63 - (first ^ last).leading_zeros();
        let below = (1_u64 << differs) - 1;
        Self::new()
            .with_size(true)
            .with_frame((first & !(1 << differs) | below) >> 12)
    }

    /// First and last byte: with S set, all addresses that differ from the given one at most in
    /// the bits up to and including the lowest clear one from bit 12 on.
    pub const fn range(self) -> RangeInclusive<Iova> {
        let address = self.into_bits() & !0xfff;
        let low_bits = if self.size() {
            let ones = (address >> 12).trailing_ones();
            match 1_u64.checked_shl(ones + 13) {
                Some(bytes) => bytes - 1,
                None => u64::MAX,
            }
        } else {
            0xfff
        };
        Iova(address & !low_bits)..=Iova(address | low_bits)
    }

    /// The same for `count` pages of that size side by side, at least one, that end with the
    /// address space.
    pub const fn ranges(self, count: u8) -> RangeInclusive<Iova> {
        let range = self.range();
        let (first, last) = (range.start().0, range.end().0);
        let more = (count as u64).saturating_sub(1);
        let size = (last - first).saturating_add(1);
        Iova(first)..=Iova(last.saturating_add(size.saturating_mul(more)))
    }
}
