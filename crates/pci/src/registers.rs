//! Config space registers: offsets in bytes, and their bits (PCIe Base 5.0, chapter 7).

use bitflags::bitflags;

/// Bytes of one function's config space.
pub const CONFIG_SPACE_SIZE: u16 = 4096;

/// Vendor ID, 16 bits.
pub const VENDOR_ID: u16 = 0x00;
/// Device ID, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Command, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Status, 16 bits.
pub const STATUS: u16 = 0x06;
/// The bit of [`STATUS`] that tells of an asserted pin, whether or not it is disabled.
pub const STATUS_INTERRUPT: u8 = 1 << 3;
/// Revision ID, 8 bits.
pub const REVISION_ID: u16 = 0x08;
/// Class code, 24 bits.
pub const CLASS_CODE: u16 = 0x09;
/// Cache line size, 8 bits, of no effect.
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Header type, 8 bits; bit 7 tells of more functions.
pub const HEADER_TYPE: u16 = 0x0e;
/// The first of the base address registers, 32 bits each: six in type 0, two in type 1.
pub const BAR0: u16 = 0x10;
/// Subsystem vendor ID, 16 bits; type 0.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem ID, 16 bits; type 0.
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 8 bits: for software's use.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits: 0 for none, 1 for INTA.
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Primary bus number, 8 bits; type 1.
pub const PRIMARY_BUS: u16 = 0x18;
/// Secondary bus number, 8 bits; type 1.
pub const SECONDARY_BUS: u16 = 0x19;
/// Subordinate bus number, 8 bits; type 1.
pub const SUBORDINATE_BUS: u16 = 0x1a;
/// I/O base, 8 bits: address bits 15:12; type 1.
pub const IO_BASE: u16 = 0x1c;
/// I/O limit, 8 bits: address bits 15:12; type 1.
pub const IO_LIMIT: u16 = 0x1d;
/// Memory base, 16 bits: address bits 31:20; type 1.
pub const MEMORY_BASE: u16 = 0x20;
/// Memory limit, 16 bits: address bits 31:20; type 1.
pub const MEMORY_LIMIT: u16 = 0x22;
/// Prefetchable memory base, 16 bits: address bits 31:20; type 1.
pub const PREFETCHABLE_BASE: u16 = 0x24;
/// Prefetchable memory limit, 16 bits: address bits 31:20; type 1.
pub const PREFETCHABLE_LIMIT: u16 = 0x26;
/// Prefetchable memory base, upper 32 bits; type 1.
pub const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
/// Prefetchable memory limit, upper 32 bits; type 1.
pub const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
/// Bridge control, 16 bits; type 1.
pub const BRIDGE_CONTROL: u16 = 0x3e;
/// The bit of [`BRIDGE_CONTROL`] that holds the secondary bus in reset.
pub const BRIDGE_CONTROL_SECONDARY_RESET: u16 = 1 << 6;

/// The first capability may lie here.
pub const FIRST_CAPABILITY: u16 = 0x40;
/// The first extended capability lies here.
pub const FIRST_EXTENDED_CAPABILITY: u16 = 0x100;

/// Capability ID of MSI.
pub const CAP_MSI: u8 = 0x05;
/// Capability ID of vendor-specific capabilities.
pub const CAP_VENDOR: u8 = 0x09;
/// Capability ID of PCI Express.
pub const CAP_PCIE: u8 = 0x10;
/// Capability ID of MSI-X.
pub const CAP_MSIX: u8 = 0x11;
/// Extended capability ID of Access Control Services.
pub const EXT_CAP_ACS: u16 = 0x000d;

bitflags! {
    /// The command register (section 7.5.1.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// I/O Space Enable.
        const IO = 1;
        /// Memory Space Enable.
        const MEMORY = 1 << 1;
        /// Bus Master Enable; in a bridge, of everything behind it.
        const BUS_MASTER = 1 << 2;
        /// Parity Error Response.
        const PARITY_RESPONSE = 1 << 6;
        /// SERR# Enable.
        const SERR = 1 << 8;
        /// Interrupt Disable.
        const INTX_DISABLE = 1 << 10;
    }
}
