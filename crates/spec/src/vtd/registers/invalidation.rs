//! Invalidation by registers and by queue (sections 11.4.6, 11.4.8 and 11.4.9).

use bitfield_struct::bitfield;
use thiserror::Error;

use crate::{Iova, PhysAddr};

/// How much an invalidation drops: CIRG and CAIG, IIRG and IAIG, and G of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Granularity {
    /// Reserved as a request. As the actual granularity: the request was incorrect and ignored.
    Reserved = 0,
    /// Everything.
    Global = 1,
    /// One domain.
    Domain = 2,
    /// For the context cache, one or more functions of a device. For the IOTLB, a range of pages
    /// in a domain.
    Selective = 3,
}

impl Granularity {
    pub(crate) const fn into_bits(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Reserved,
            1 => Self::Global,
            2 => Self::Domain,
            _ => Self::Selective,
        }
    }
}

/// CCMD_REG (section 11.4.6.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextCommand {
    /// DID, 16 bits: the domain.
    pub domain: u16,
    /// SID, 16 bits: the device.
    pub source: u16,
    /// FM, 2 bits: how many bits of the function number, from the upper, do not matter.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(25)]
    __: u32,
    /// CAIG, 2 bits: what was invalidated.
    #[bits(2)]
    pub actual: Granularity,
    /// CIRG, 2 bits: what is to be invalidated.
    #[bits(2)]
    pub requested: Granularity,
    /// ICC: begins the invalidation; reads as 1 while it lasts.
    pub invalidate: bool,
}

/// IOTLB_REG (section 11.4.8.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidate {
    #[bits(32)]
    __: u32,
    /// DID, 16 bits: the domain.
    pub domain: u16,
    /// DW: drain writes.
    pub drain_writes: bool,
    /// DR: drain reads.
    pub drain_reads: bool,
    #[bits(7)]
    __: u8,
    /// IAIG, 2 bits: what was invalidated.
    #[bits(2)]
    pub actual: Granularity,
    #[bits(1)]
    __: u8,
    /// IIRG, 2 bits: what is to be invalidated.
    #[bits(2)]
    pub requested: Granularity,
    #[bits(1)]
    __: u8,
    /// IVT: begins the invalidation; reads as 1 while it lasts.
    pub invalidate: bool,
}

/// IVA_REG (section 11.4.8.1), and the second half of an IOTLB invalidation descriptor.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateAddress {
    /// AM, 6 bits: 2^AM pages of 4 KiB, aligned to their size, are invalidated.
    #[bits(6)]
    pub address_mask: u8,
    /// IH: no entries that point to tables changed.
    pub hint: bool,
    #[bits(5)]
    __: u8,
    #[bits(52)]
    page: u64,
}

impl InvalidateAddress {
    /// ADDR: an address in the pages.
    pub const fn address(self) -> Iova {
        Iova(self.page() << 12)
    }

    /// The same with bits 63:12 of `address`.
    pub const fn with_address(self, address: Iova) -> Self {
        self.with_page(address.0 >> 12)
    }
}

/// IQH_REG and IQT_REG (sections 11.4.9.1 and 11.4.9.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueuePointer {
    #[bits(4)]
    __: u8,
    /// QH, QT, 15 bits: the index of a 128-bit descriptor; of a 256-bit descriptor, twice its
    /// index.
    #[bits(15)]
    pub index: u16,
    #[bits(45)]
    __: u64,
}

impl QueuePointer {
    /// The offset in bytes from the start of the queue.
    pub const fn offset(self) -> u32 {
        (self.index() as u32) << 4
    }
}

/// IQA_REG (section 11.4.9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueAddress {
    /// QS, 3 bits: the queue has 2^QS pages of 4 KiB.
    #[bits(3)]
    pub size: u8,
    #[bits(8)]
    __: u8,
    /// DW: descriptors are 256 bits wide.
    pub wide: bool,
    #[bits(52)]
    frame: u64,
}

impl QueueAddress {
    /// IQA: where the queue is.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the queue at `address`, whose bits 11:0 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12)
    }

    /// The size of the queue in bytes.
    pub const fn bytes(self) -> u32 {
        4096 << self.size()
    }
}

/// Why the invalidation queue stopped: IQEI of IQERCD_REG (section 11.4.9.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u8)]
pub enum QueueError {
    /// No information.
    #[error("no information")]
    Unspecified = 0,
    /// The tail is beyond the end of the queue.
    #[error("the tail is beyond the queue")]
    InvalidTail = 1,
    /// A descriptor could not be read.
    #[error("a descriptor could not be read")]
    Fetch = 2,
    /// The type of the descriptor is reserved or not supported.
    #[error("invalid descriptor type")]
    InvalidType = 3,
    /// A reserved field of the descriptor is not zero, or a field has a reserved value.
    #[error("reserved field violation")]
    Reserved = 4,
    /// The width of descriptors does not fit the unit or the table mode.
    #[error("invalid descriptor width")]
    InvalidWidth = 5,
    /// The tail is not a multiple of the descriptor width.
    #[error("the tail is misaligned")]
    MisalignedTail = 6,
    /// The table mode is reserved.
    #[error("invalid table mode")]
    InvalidMode = 7,
}

impl QueueError {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::InvalidTail,
            2 => Self::Fetch,
            3 => Self::InvalidType,
            4 => Self::Reserved,
            5 => Self::InvalidWidth,
            6 => Self::MisalignedTail,
            7 => Self::InvalidMode,
            _ => Self::Unspecified,
        }
    }
}

/// IQERCD_REG (section 11.4.9.9).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueErrorRecord {
    /// IQEI, 4 bits: valid while FSTS.IQE is set.
    #[bits(4)]
    pub error: QueueError,
    #[bits(28)]
    __: u32,
    /// ITESID, 16 bits: who did not answer; valid while FSTS.ITE is set.
    pub timeout_source: u16,
    /// ICESID, 16 bits: whose answer was unexpected; valid while FSTS.ICE is set.
    pub completion_source: u16,
}
