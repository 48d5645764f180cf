//! The device table (section 2.2.2).
//!
//! An entry has four words of 64 bits. What concerns memory requests is checked apart from what
//! concerns interrupt requests: either half may be valid without the other.

use bitfield_struct::bitfield;

use crate::amd::FaultReason;
use crate::{DomainId, PhysAddr};

/// What a unit's capabilities and controls make of device table entries: which fields and values
/// are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DteRules {
    /// EFR.HATS: the most levels of host tables, 4 to 6; 0 without host tables.
    pub host_levels: u8,
    /// EFR.GTSup: GV, GLX and the guest CR3 table are defined.
    pub guest_translation: bool,
    /// EFR.GATS: the most levels of guest tables, 4 or 5.
    pub guest_levels: u8,
    /// EFR.GLXSup: the most levels of the guest CR3 table, 1 to 3.
    pub guest_cr3_levels: u8,
    /// EFR.GIOSup: GIoV is defined.
    pub guest_io: bool,
    /// EFR.HASup: HAD bit 0 is defined.
    pub host_accessed: bool,
    /// EFR.HDSup: HAD bit 1 is defined.
    pub host_dirty: bool,
    /// EFR.EPHSup: PPR and GPRP are defined.
    pub enhanced_ppr: bool,
    /// The most entries of an interrupt table, as a power of two: 9, or 11 in 2048-entry mode.
    pub interrupt_table_length: u8,
}

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
    const fn reserved(rules: &DteRules) -> u64 {
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
    const fn reserved(rules: &DteRules) -> u64 {
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

/// IoCtl: what becomes of requests in HyperTransport's port I/O range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IoControl {
    /// They are aborted.
    Abort = 0,
    /// They pass untranslated.
    Forward = 1,
    /// They are translated.
    Translate = 2,
}

/// SysMgt: what becomes of requests in HyperTransport's system management range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SystemManagement {
    /// They are aborted.
    Abort = 0,
    /// They pass untranslated.
    Forward = 1,
    /// Interrupt messages pass, others are aborted.
    ForwardInterrupts = 2,
    /// They are translated.
    Translate = 3,
}

/// The host tables of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostTables {
    /// The level of the topmost table, 1 to 6.
    pub levels: u8,
    /// Where it is.
    pub root: PhysAddr,
    /// Walks set accessed flags.
    pub accessed: bool,
    /// Walks set dirty flags.
    pub dirty: bool,
}

/// The guest tables of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestTables {
    /// The number of levels of the guest CR3 table, 1 to 3.
    pub cr3_levels: u8,
    /// Where it is.
    pub cr3_table: PhysAddr,
    /// The number of levels of the guest tables, 4 or 5.
    pub levels: u8,
    /// GIoV: requests without PASID use those of PASID 0.
    pub without_pasid: bool,
}

/// What a valid entry says about memory requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// TV: otherwise every request that is to be translated is refused.
    pub translation_valid: bool,
    /// The host tables; `None` if host addresses are not translated (Mode 0).
    pub host: Option<HostTables>,
    /// The guest tables, if GV is set.
    pub guest: Option<GuestTables>,
    /// IR.
    pub read: bool,
    /// IW.
    pub write: bool,
    /// The domain.
    pub domain: DomainId,
    /// I.
    pub iotlb: bool,
    /// PPR.
    pub ppr: bool,
    /// GPRP.
    pub ppr_response_pasid: bool,
    /// SE.
    pub suppress_repeated: bool,
    /// SA.
    pub suppress_all: bool,
    /// EX.
    pub exclusion: bool,
    /// IoCtl.
    pub io_control: IoControl,
    /// SysMgt.
    pub system_management: SystemManagement,
}

/// IntCtl: what becomes of fixed and arbitrated interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum InterruptControl {
    /// They are aborted.
    Abort = 0,
    /// They pass unmapped.
    Forward = 1,
    /// They are remapped.
    Remap = 2,
}

/// What a valid entry says about interrupt requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterruptSource {
    /// IntCtl.
    pub control: InterruptControl,
    /// Where the interrupt remapping table is.
    pub table: PhysAddr,
    /// The number of its entries, 1 to 2048.
    pub entries: u32,
    /// IG.
    pub ignore_unmapped: bool,
    /// InitPass.
    pub init_pass: bool,
    /// EIntPass.
    pub ext_int_pass: bool,
    /// NMIPass.
    pub nmi_pass: bool,
    /// Lint0Pass.
    pub lint0_pass: bool,
    /// Lint1Pass.
    pub lint1_pass: bool,
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

    /// What the entry says about memory requests, once it proved valid; `None` if V is clear.
    ///
    /// # Errors
    /// The `Dte…` reasons that concern memory requests. An illegal Mode is
    /// [`FaultReason::HostMode`], a page fault.
    pub const fn check_dma(self, rules: &DteRules) -> Result<Option<Device>, FaultReason> {
        let Self {
            dma,
            domain,
            interrupt,
            attributes,
        } = self;
        if !dma.valid() {
            return Ok(None);
        }
        if dma.into_bits() & DmaWord::reserved(rules) != 0
            || domain.into_bits() & DomainWord::reserved(rules) != 0
            || attributes.into_bits() & AttributeWord::RESERVED != 0
        {
            return Err(FaultReason::DteReserved);
        }
        let io_control = match domain.io_control() {
            0 => IoControl::Abort,
            1 => IoControl::Forward,
            2 => IoControl::Translate,
            _ => return Err(FaultReason::DteIoControl),
        };
        if dma.host_flags() == 2 {
            return Err(FaultReason::DteHostFlags);
        }
        let guest = if !dma.guest_valid() {
            None
        } else if dma.guest_cr3_levels() >= rules.guest_cr3_levels {
            return Err(FaultReason::DteGuestCr3Levels);
        } else if interrupt.guest_paging_mode() + 4 > rules.guest_levels {
            return Err(FaultReason::DteGuestLevels);
        } else {
            Some(GuestTables {
                cr3_levels: dma.guest_cr3_levels() + 1,
                cr3_table: self.guest_cr3_table(),
                levels: interrupt.guest_paging_mode() + 4,
                without_pasid: dma.guest_io_valid(),
            })
        };
        let host = match dma.mode() {
            0 => None,
            levels if levels > rules.host_levels => return Err(FaultReason::HostMode),
            levels => Some(HostTables {
                levels,
                root: dma.host_tables(),
                accessed: dma.host_flags() & 1 != 0,
                dirty: dma.host_flags() & 2 != 0,
            }),
        };
        Ok(Some(Device {
            translation_valid: dma.translation_valid(),
            host,
            guest,
            read: dma.read(),
            write: dma.write(),
            domain: DomainId(domain.domain()),
            iotlb: domain.iotlb(),
            ppr: dma.ppr(),
            ppr_response_pasid: dma.ppr_response_pasid(),
            suppress_repeated: domain.suppress_repeated(),
            suppress_all: domain.suppress_all(),
            exclusion: domain.exclusion(),
            io_control,
            system_management: match domain.system_management() {
                0 => SystemManagement::Abort,
                1 => SystemManagement::Forward,
                2 => SystemManagement::ForwardInterrupts,
                _ => SystemManagement::Translate,
            },
        }))
    }

    /// What the entry says about interrupt requests, once it proved valid; `None` if IV is clear.
    ///
    /// # Errors
    /// [`FaultReason::DteReserved`], [`FaultReason::DteInterruptControl`], and
    /// [`FaultReason::DteInterruptTableLength`] if interrupts are to be remapped.
    pub const fn check_interrupts(
        self,
        rules: &DteRules,
    ) -> Result<Option<InterruptSource>, FaultReason> {
        let word = self.interrupt;
        if !word.valid() {
            return Ok(None);
        }
        if word.into_bits() & InterruptWord::RESERVED != 0 {
            return Err(FaultReason::DteReserved);
        }
        let control = match word.control() {
            0 => InterruptControl::Abort,
            1 => InterruptControl::Forward,
            2 => InterruptControl::Remap,
            _ => return Err(FaultReason::DteInterruptControl),
        };
        if matches!(control, InterruptControl::Remap)
            && word.table_length() > rules.interrupt_table_length
        {
            return Err(FaultReason::DteInterruptTableLength);
        }
        Ok(Some(InterruptSource {
            control,
            table: word.table_address(),
            entries: 1 << word.table_length(),
            ignore_unmapped: word.ignore_unmapped(),
            init_pass: word.init_pass(),
            ext_int_pass: word.ext_int_pass(),
            nmi_pass: word.nmi_pass(),
            lint0_pass: word.lint0_pass(),
            lint1_pass: word.lint1_pass(),
        }))
    }
}
