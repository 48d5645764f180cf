//! What device table entries mean (section 2.2.2.1).
//!
//! What concerns memory requests is checked apart from what concerns interrupt requests: either
//! half of an entry may be valid without the other.

use crate::amd::{
    AttributeWord, DeviceTableEntry, DmaWord, DomainWord, FaultReason, InterruptWord,
};
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
    /// DomainID, if V is set.
    pub domain: Option<DomainId>,
    /// IG: page faults of interrupts are not logged.
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
            domain: if self.dma.valid() {
                Some(DomainId(self.domain.domain()))
            } else {
                None
            },
            ignore_unmapped: word.ignore_unmapped(),
            init_pass: word.init_pass(),
            ext_int_pass: word.ext_int_pass(),
            nmi_pass: word.nmi_pass(),
            lint0_pass: word.lint0_pass(),
            lint1_pass: word.lint1_pass(),
        }))
    }
}
