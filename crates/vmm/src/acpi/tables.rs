//! The tables with a fixed form: FADT, MADT, MCFG.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::{Aml, AmlSink, aml_as_bytes};
use zerocopy::byteorder::{LE, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout;

/// FADT boot architecture flags (ACPI 6.5, 5.2.9.3): no VGA to probe, no ASPM to control, no
/// CMOS clock; and, by bits left 0, no legacy devices and no keyboard controller.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4 | 1 << 5;

/// The fixed description: everything by control methods, but sleep and reset by register.
pub fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(layout::ACPI_RESET);
    fadt.reset_value = layout::ACPI_RESET_VALUE;
    fadt.sleep_control_reg = port(layout::ACPI_SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::ACPI_SLEEP_STATUS);
    fadt.finalize()
}

fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

/// The interrupt controllers: a local APIC for each CPU, in the x2APIC's form where the id has
/// more than the APIC's 8 bits or means "all", and the I/O APIC. The flags say that there is no
/// 8259.
pub fn madt(cpus: u16) -> MADT {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(layout::LAPIC as u32),
    );
    for cpu in 0..cpus {
        match u8::try_from(cpu) {
            Ok(id) if id != u8::MAX => {
                madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
            }
            _ => madt.add_structure(LocalX2Apic::new(cpu.into())),
        }
    }
    madt.add_structure(IoApic::new(layout::IOAPIC_ID, layout::IOAPIC as u32, 0));
    madt
}

/// Processor local x2APIC structure (ACPI 6.5, 5.2.12.12).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct LocalX2Apic {
    kind: u8,
    length: u8,
    reserved: [u8; 2],
    id: U32<LE>,
    flags: U32<LE>,
    uid: U32<LE>,
}

impl LocalX2Apic {
    fn new(id: u32) -> Self {
        Self {
            kind: 9,
            length: size_of::<Self>() as u8,
            reserved: [0; 2],
            id: id.into(),
            flags: 1.into(),
            uid: id.into(),
        }
    }
}

aml_as_bytes!(LocalX2Apic);

/// The ECAM window of segment 0.
pub fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(*layout::ECAM.start(), 0, 0, u8::MAX);
    mcfg
}
