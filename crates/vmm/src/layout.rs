//! Where things are in the guest's physical address space and I/O ports.

use std::ops::RangeInclusive;

/// End of the RAM below the 32-bit device hole, in bytes; the rest of RAM begins at 4 GiB.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Start of the RAM above the hole.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// PCI memory window below 4 GiB.
pub const PCI_WINDOW_32: RangeInclusive<u64> = 0xc000_0000..=0xdfff_ffff;
/// PCI memory window above RAM.
pub const PCI_WINDOW_64: RangeInclusive<u64> = 0x40_0000_0000..=0x4f_ffff_ffff;
/// PCI I/O port window.
pub const PCI_WINDOW_PIO: RangeInclusive<u16> = 0xc000..=0xffff;
/// The ECAM window: 1 MiB a bus, all 256 buses of segment 0.
pub const ECAM: RangeInclusive<u64> = 0xe000_0000..=0xefff_ffff;

/// I/O APIC registers, 4 KiB.
pub const IOAPIC: u64 = 0xfec0_0000;
/// I/O APIC identifier, as the MADT and the DMAR table name it.
pub const IOAPIC_ID: u8 = 0;
/// Source id of the I/O APIC's interrupts unless the configuration says otherwise: 0000:ff:00.0,
/// named in the DMAR table's scope.
pub const IOAPIC_SOURCE_ID: u16 = 0xff00;
/// The first VT-d unit's registers, 4 KiB or 8.
pub const VTD: u64 = 0xfed9_0000;
/// The first AMD-Vi unit's registers, 16 KiB.
pub const AMDVI: u64 = 0xfed8_0000;
/// From the registers of one unit to those of the next.
pub const UNIT_STRIDE: u64 = 0x4000;
/// Where the first AMD-Vi unit's own function is on the root bus: 00:00.2, beside the host bridge,
/// as in real machines; those of further units follow.
pub const AMDVI_FUNCTION: u8 = 2;
/// The device number of the system management bus controller on the root bus, from which the
/// I/O APIC's interrupts come if there is an AMD-Vi unit.
pub const SMBUS_DEVICE: u8 = 0x14;
/// The device number, on the root bus, of the root port that unit `unit` has, from 1 on.
#[must_use]
pub const fn root_port(unit: u8) -> u8 {
    0x1b + unit
}
/// Local APIC registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// Three pages that KVM uses on Intel hosts.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// One page that KVM uses on Intel hosts.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// The serial port, 8 ports, on [`COM1_IRQ`].
pub const COM1: u16 = 0x3f8;
/// The serial port's interrupt.
pub const COM1_IRQ: u32 = 4;
/// I/O APIC pins of the PCI lines INTA to INTD.
pub const INTX_PINS: [u8; 4] = [16, 17, 18, 19];
/// The exit device, 4 ports: a write of `v` ends the machine with status `v << 1 | 1`.
pub const EXIT_DEVICE: u16 = 0xf4;
/// The firmware configuration device: selector, data, 2 ports.
pub const FW_CFG: u16 = 0x510;
/// PCI configuration address and data, 8 ports.
pub const PCI_CONFIG: u16 = 0xcf8;
/// ACPI sleep control register, 1 port.
pub const ACPI_SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register, 1 port.
pub const ACPI_SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register, 1 port.
pub const ACPI_RESET: u16 = 0x602;
/// The value that resets, written to [`ACPI_RESET`].
pub const ACPI_RESET_VALUE: u8 = 1;

/// ACPI tables: the RSDP comes first, where guests search for it.
pub const ACPI_TABLES: RangeInclusive<u64> = 0xe_0000..=0xf_ffff;
