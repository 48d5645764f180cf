//! Commands to the whole unit (sections 11.4.4 and 11.4.10).

use bitfield_struct::bitfield;
use bitflags::bitflags;

use crate::PhysAddr;

/// GCMD_REG and GSTS_REG (section 11.4.4): a command and the status that answers it have the
/// same bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GlobalBits(u32);

bitflags! {
    impl GlobalBits: u32 {
        /// TE, TES: translation is enabled.
        const TRANSLATION = 1 << 31;
        /// SRTP, RTPS: sets the root table pointer; a one-shot command.
        const ROOT_TABLE_POINTER = 1 << 30;
        /// SFL, FLS: sets the fault log pointer; a one-shot command, needs CAP.AFL.
        const FAULT_LOG = 1 << 29;
        /// EAFL, AFLS: advanced fault logging is enabled; needs CAP.AFL.
        const ADVANCED_FAULT_LOG = 1 << 28;
        /// WBF, WBFS: flushes the write buffer; a one-shot command, needs CAP.RWBF.
        const WRITE_BUFFER_FLUSH = 1 << 27;
        /// QIE, QIES: the invalidation queue is enabled.
        const QUEUED_INVALIDATION = 1 << 26;
        /// IRE, IRES: interrupt remapping is enabled.
        const INTERRUPT_REMAPPING = 1 << 25;
        /// SIRTP, IRTPS: sets the interrupt remapping table pointer; a one-shot command.
        const INTERRUPT_TABLE_POINTER = 1 << 24;
        /// CFI, CFIS: interrupts in compatibility format pass.
        const COMPATIBILITY_FORMAT = 1 << 23;
    }
}

impl GlobalBits {
    /// The bits that stay as they are written; the others are one-shot commands.
    pub const ENABLES: Self = Self(
        Self::TRANSLATION.0
            | Self::ADVANCED_FAULT_LOG.0
            | Self::QUEUED_INVALIDATION.0
            | Self::INTERRUPT_REMAPPING.0
            | Self::COMPATIBILITY_FORMAT.0,
    );
}

/// What the root table is (TTM of RTADDR_REG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableMode {
    /// Legacy mode: one root table of context tables.
    Legacy = 0,
    /// Scalable mode.
    Scalable = 1,
    /// Reserved.
    Reserved = 2,
    /// Abort-DMA mode: every request is aborted.
    AbortDma = 3,
}

impl TableMode {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Legacy,
            1 => Self::Scalable,
            2 => Self::Reserved,
            _ => Self::AbortDma,
        }
    }
}

/// RTADDR_REG (section 11.4.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootTableAddress {
    #[bits(10)]
    __: u16,
    /// TTM, 2 bits.
    #[bits(2)]
    pub mode: TableMode,
    #[bits(52)]
    frame: u64,
}

impl RootTableAddress {
    /// RTA: the address of the root table, 4 KiB.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same mode with the table at `address`, whose bits 11:0 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12)
    }
}

/// IRTA_REG (section 11.4.10).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptTableAddress {
    /// S, 4 bits: the table has 2^(S+1) entries.
    #[bits(4)]
    pub size: u8,
    #[bits(7)]
    __: u8,
    /// EIME: destinations are 32 bits wide (x2APIC).
    pub extended_mode: bool,
    #[bits(52)]
    frame: u64,
}

impl InterruptTableAddress {
    /// IRTA: the address of the table.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the table at `address`, whose bits 11:0 are dropped.
    pub const fn with_address(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12)
    }

    /// The number of entries, 2 to 65536.
    pub const fn entries(self) -> u32 {
        2 << self.size()
    }
}
