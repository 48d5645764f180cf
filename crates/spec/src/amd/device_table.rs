//! The device table (section 2.2.2).
//!
//! An entry has four words of 64 bits; the types here are their bits.

use bitfield_struct::bitfield;

use crate::PhysAddr;
use crate::amd::DteRules;

/// Bits 63:0 of a device table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DmaWord {
    /// V: the entry is valid for memory requests; otherwise they pass untranslated, and all bits
    /// up to 127 are ignored.
    pub valid: bool,
    /// TV: the translation information is valid.
    pub translation_valid: bool,
    #[bits(5)]
    __: u8,
    /// HAD, 2 bits: walks of host tables set accessed flags (bit 0) and dirty flags (bit 1).
    #[bits(2)]
    pub host_flags: u8,
    /// Mode, 3 bits: the level of the topmost host table; 0 without translation.
    #[bits(3)]
    pub mode: u8,
    #[bits(40)]
    host_frame: u64,
    /// PPR: the device may issue page requests.
    pub ppr: bool,
    /// GPRP: responses to page requests carry the PASID.
    pub ppr_response_pasid: bool,
    /// GIoV: requests without PASID use the guest tables of PASID 0.
    pub guest_io_valid: bool,
    /// GV: the guest translation information is valid.
    pub guest_valid: bool,
    /// GLX, 2 bits: the guest CR3 table has 1 + n levels.
    #[bits(2)]
    pub guest_cr3_levels: u8,
    /// Bits 14:12 of the guest CR3 table's address.
    #[bits(3)]
    guest_cr3_low: u64,
    /// IR: reads are permitted.
    pub read: bool,
    /// IW: writes are permitted.
    pub write: bool,
    #[bits(1)]
    __: u8,
}

/// Bits 127:64 of a device table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DomainWord {
    /// DomainID, 16 bits.
    pub domain: u16,
    /// Bits 30:15 of the guest CR3 table's address.
    #[bits(16)]
    guest_cr3_middle: u64,
    /// I: the device may have a TLB of its own: translation requests and translated requests are
    /// served.
    pub iotlb: bool,
    /// SE: page faults of the device are logged once, until its entry is invalidated.
    pub suppress_repeated: bool,
    /// SA: page faults of the device are not logged.
    pub suppress_all: bool,
    /// IoCtl, 2 bits.
    #[bits(2)]
    pub io_control: u8,
    /// Cache: a hint for translation requests.
    pub cache: bool,
    /// SD: translated requests do not snoop.
    pub snoop_disable: bool,
    /// EX: the exclusion range holds for the device.
    pub exclusion: bool,
    /// SysMgt, 2 bits.
    #[bits(2)]
    pub system_management: u8,
    /// SATS: translation requests are secure; reserved without support.
    pub secure_ats: bool,
    /// Bits 51:31 of the guest CR3 table's address.
    #[bits(21)]
    guest_cr3_high: u64,
}

/// Bits 191:128 of a device table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptWord {
    /// IV: the interrupt information is valid; otherwise interrupts pass unmapped.
    pub valid: bool,
    /// IntTabLen, 4 bits: the interrupt remapping table has 2^n entries.
    #[bits(4)]
    pub table_length: u8,
    /// IG: faults of interrupts that are not remapped are not logged.
    pub ignore_unmapped: bool,
    #[bits(46)]
    table: u64,
    #[bits(2)]
    __: u8,
    /// GuestPagingMode, 2 bits: guest tables have 4 + n levels.
    #[bits(2)]
    pub guest_paging_mode: u8,
    /// InitPass: INIT passes.
    pub init_pass: bool,
    /// EIntPass: ExtInt passes.
    pub ext_int_pass: bool,
    /// NMIPass: NMI passes.
    pub nmi_pass: bool,
    /// HPTMode; reserved without secure nested paging.
    pub host_mode: bool,
    /// IntCtl, 2 bits: what becomes of fixed and arbitrated interrupts.
    #[bits(2)]
    pub control: u8,
    /// Lint0Pass: LINT0 passes.
    pub lint0_pass: bool,
    /// Lint1Pass: LINT1 passes.
    pub lint1_pass: bool,
}

/// Bits 255:192 of a device table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AttributeWord {
    #[bits(54)]
    __: u64,
    /// AttrV: the attributes hold; without meaning to a unit whose accesses all snoop.
    pub valid: bool,
    /// Mode0FC.
    pub mode0_force_coherent: bool,
    /// Snoop attribute, 8 bits.
    pub snoop: u8,
}

impl DmaWord {
    /// Bits that are reserved whatever the unit offers.
    pub const RESERVED: u64 = 1 << 63 | 0x1f << 2;

    /// Page Table Root Pointer: the address of the topmost host table.
    pub const fn host_tables(self) -> PhysAddr {
        PhysAddr(self.host_frame() << 12)
    }

    /// The same with the topmost host table at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_host_tables(self, address: PhysAddr) -> Self {
        self.with_host_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    /// The bits that are reserved under `rules`.
    pub(super) const fn reserved(rules: &DteRules) -> u64 {
        let mut bits = Self::RESERVED;
        if !rules.host_accessed {
            bits |= 1 << 7;
        }
        if !rules.host_dirty {
            bits |= 1 << 8;
        }
        if !rules.enhanced_ppr {
            bits |= 3 << 52;
        }
        if !rules.guest_io {
            bits |= 1 << 54;
        }
        if !rules.guest_translation {
            bits |= 0x3f << 55;
        }
        bits
    }
}

impl DomainWord {
    pub(super) const fn reserved(rules: &DteRules) -> u64 {
        let always = 1 << 42;
        if rules.guest_translation {
            always
        } else {
            always | 0xffff << 16 | 0x1f_ffff << 43
        }
    }
}

impl InterruptWord {
    /// Bits that are reserved: bits 53:52 (181:180 of the entry) and HPTMode.
    pub const RESERVED: u64 = 3 << 52 | 1 << 59;

    /// The address of the interrupt remapping table, a multiple of 128.
    pub const fn table_address(self) -> PhysAddr {
        PhysAddr(self.table() << 6)
    }

    /// The same with the table at `address`, whose bits 5:0 and 63:52 are dropped.
    pub const fn with_table_address(self, address: PhysAddr) -> Self {
        self.with_table(address.0 >> 6 & ((1 << 46) - 1))
    }
}

impl AttributeWord {
    /// The reserved bits.
    pub const RESERVED: u64 = (1 << 54) - 1;
}

/// A device table entry, 256 bits (section 2.2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceTableEntry {
    /// Bits 63:0.
    pub dma: DmaWord,
    /// Bits 127:64.
    pub domain: DomainWord,
    /// Bits 191:128.
    pub interrupt: InterruptWord,
    /// Bits 255:192.
    pub attributes: AttributeWord,
}

impl DeviceTableEntry {
    /// Size of an entry in bytes.
    pub const SIZE: u64 = 32;

    /// The entry of these words, the lowest first.
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self {
            dma: DmaWord::from_bits(words[0]),
            domain: DomainWord::from_bits(words[1]),
            interrupt: InterruptWord::from_bits(words[2]),
            attributes: AttributeWord::from_bits(words[3]),
        }
    }

    /// The words, the lowest first.
    pub const fn words(self) -> [u64; 4] {
        [
            self.dma.into_bits(),
            self.domain.into_bits(),
            self.interrupt.into_bits(),
            self.attributes.into_bits(),
        ]
    }

    /// GCR3 Table Root Pointer: the address of the topmost guest CR3 table.
    pub const fn guest_cr3_table(self) -> PhysAddr {
        PhysAddr(
            self.dma.guest_cr3_low() << 12
                | self.domain.guest_cr3_middle() << 15
                | self.domain.guest_cr3_high() << 31,
        )
    }

    /// The same with the topmost guest CR3 table at `address`, whose bits 11:0 and 63:52 are
    /// dropped.
    pub const fn with_guest_cr3_table(mut self, address: PhysAddr) -> Self {
        self.dma = self.dma.with_guest_cr3_low(address.0 >> 12 & 7);
        self.domain = self
            .domain
            .with_guest_cr3_middle(address.0 >> 15 & 0xffff)
            .with_guest_cr3_high(address.0 >> 31 & 0x1f_ffff);
        self
    }
}
