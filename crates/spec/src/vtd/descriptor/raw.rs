//! The bits of descriptors: the lower 64 in the types here, the upper 64 as noted.

use core::ops::RangeInclusive;

use bitfield_struct::bitfield;

use crate::Iova;
use crate::vtd::registers::Granularity;

/// The type of a context-cache invalidation.
pub const CONTEXT: u8 = 1;
/// The type of an IOTLB invalidation.
pub const IOTLB: u8 = 2;
/// The type of a device-TLB invalidation.
pub const DEVICE_TLB: u8 = 3;
/// The type of an interrupt entry cache invalidation.
pub const INTERRUPT_ENTRY: u8 = 4;
/// The type of a wait.
pub const WAIT: u8 = 5;

/// The type, 7 bits: bits 11:9 and 3:0 of the lower half.
pub const fn kind(low: u64) -> u8 {
    (low & 0xf) as u8 | (low >> 5) as u8 & 0x70
}

/// Type 1 (section 6.5.2.1); the upper half is reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextInvalidate {
    /// The type, [`CONTEXT`].
    #[bits(4, default = CONTEXT)]
    pub kind: u8,
    /// G, 2 bits.
    #[bits(2)]
    pub granularity: Granularity,
    #[bits(10)]
    __: u16,
    /// DID, 16 bits.
    pub domain: u16,
    /// SID, 16 bits.
    pub source: u16,
    /// FM, 2 bits: the number of upper function bits that do not matter.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(14)]
    __: u16,
}

impl ContextInvalidate {
    /// The reserved bits of the lower half.
    pub const RESERVED: u64 = 0xfffc_0000_0000_f1c0;
}

/// Type 2 (section 6.5.2.2); the upper half is an
/// [`InvalidateAddress`](crate::vtd::registers::InvalidateAddress).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidate {
    /// The type, [`IOTLB`].
    #[bits(4, default = IOTLB)]
    pub kind: u8,
    /// G, 2 bits.
    #[bits(2)]
    pub granularity: Granularity,
    /// DW: drain writes.
    pub drain_writes: bool,
    /// DR: drain reads.
    pub drain_reads: bool,
    #[bits(8)]
    __: u8,
    /// DID, 16 bits.
    pub domain: u16,
    #[bits(32)]
    __: u32,
}

impl IotlbInvalidate {
    /// The reserved bits of the lower half.
    pub const RESERVED: u64 = 0xffff_ffff_0000_f100;
}

/// Type 3 (section 6.5.2.5); the upper half is the address with S in bit 0, as
/// [`device_tlb_range`] reads it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTlbInvalidate {
    /// The type, [`DEVICE_TLB`].
    #[bits(4, default = DEVICE_TLB)]
    pub kind: u8,
    #[bits(8)]
    __: u8,
    /// PFSID bits 3:0.
    #[bits(4)]
    pub physical_function_low: u8,
    /// MIP, 5 bits: how many invalidations the device accepts at once.
    #[bits(5)]
    pub pending: u8,
    #[bits(11)]
    __: u16,
    /// SID, 16 bits.
    pub source: u16,
    #[bits(4)]
    __: u8,
    /// PFSID bits 15:4.
    #[bits(12)]
    pub physical_function_high: u16,
}

impl DeviceTlbInvalidate {
    /// The reserved bits of the lower half.
    pub const RESERVED: u64 = 0x000f_0000_ffe0_01f0;
}

/// The addresses of a device-TLB invalidation (PCI Express, "Address Translation Services"):
/// without `size` the page at `address`; with it, a power of two of pages that the number of
/// set bits of `address` from bit 12 on tells.
pub const fn device_tlb_range(address: u64, size: bool) -> RangeInclusive<Iova> {
    let low_bits = if size {
        // Bits 12 up to and including the first clear one do not matter.
        let ones = ((address >> 12) | 1 << 52).trailing_ones();
        match 1_u64.checked_shl(ones + 13) {
            Some(bytes) => bytes - 1,
            None => u64::MAX,
        }
    } else {
        0xfff
    };
    Iova(address & !low_bits)..=Iova(address | low_bits)
}

/// Type 4 (section 6.5.2.7); the upper half is reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptEntryInvalidate {
    /// The type, [`INTERRUPT_ENTRY`].
    #[bits(4, default = INTERRUPT_ENTRY)]
    pub kind: u8,
    /// G: clear for all entries, set for those selected.
    pub selective: bool,
    #[bits(22)]
    __: u32,
    /// IM, 5 bits: the number of lower bits of the index that do not matter.
    #[bits(5)]
    pub index_mask: u8,
    /// IIDX, 16 bits.
    pub index: u16,
    #[bits(16)]
    __: u16,
}

impl InterruptEntryInvalidate {
    /// The reserved bits of the lower half.
    pub const RESERVED: u64 = 0xffff_0000_07ff_f1e0;
}

/// Type 5 (section 6.5.2.8); the upper half is the address of the status, a multiple of 4.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Wait {
    /// The type, [`WAIT`].
    #[bits(4, default = WAIT)]
    pub kind: u8,
    /// IF: raise the invalidation event.
    pub interrupt: bool,
    /// SW: write the status.
    pub status_write: bool,
    /// FN: later descriptors begin after this one.
    pub fence: bool,
    /// PD: drain page requests.
    pub page_request_drain: bool,
    #[bits(24)]
    __: u32,
    /// STDATA, 32 bits: the status.
    pub status_data: u32,
}

impl Wait {
    /// The reserved bits of the lower half.
    pub const RESERVED: u64 = 0xffff_f100;
}
