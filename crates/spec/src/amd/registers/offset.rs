//! Offsets in bytes from the unit's register base (section 3.4). All registers have 64 bits, but
//! those from [`MSI_VECTOR_0`] to [`PERFORMANCE_OPTIMIZATION`], which have 32.

/// Device Table Base Address.
pub const DEVICE_TABLE: u16 = 0x00;
/// Command Buffer Base Address.
pub const COMMAND_BUFFER: u16 = 0x08;
/// Event Log Base Address.
pub const EVENT_LOG: u16 = 0x10;
/// IOMMU Control.
pub const CONTROL: u16 = 0x18;
/// Exclusion Base.
pub const EXCLUSION_BASE: u16 = 0x20;
/// Exclusion Range Limit.
pub const EXCLUSION_LIMIT: u16 = 0x28;
/// Extended Feature (EFR).
pub const EXTENDED_FEATURE: u16 = 0x30;
/// PPR Log Base Address.
pub const PPR_LOG: u16 = 0x38;
/// Hardware Event Upper.
pub const HARDWARE_EVENT_UPPER: u16 = 0x40;
/// Hardware Event Lower.
pub const HARDWARE_EVENT_LOWER: u16 = 0x48;
/// Hardware Event Status.
pub const HARDWARE_EVENT_STATUS: u16 = 0x50;
/// The first of up to 16 SMI Filter registers.
pub const SMI_FILTER: u16 = 0x60;
/// Guest Virtual APIC Log Base Address.
pub const GA_LOG: u16 = 0xe0;
/// Guest Virtual APIC Log Tail Address.
pub const GA_LOG_TAIL_ADDRESS: u16 = 0xe8;
/// PPR Log B Base Address.
pub const PPR_LOG_B: u16 = 0xf0;
/// Event Log B Base Address.
pub const EVENT_LOG_B: u16 = 0xf8;
/// The first of up to seven Device Table Segment Base Address registers: that of segment 1.
pub const DEVICE_TABLE_SEGMENT: u16 = 0x100;
/// Device-Specific Feature Extension.
pub const DEVICE_SPECIFIC_FEATURE: u16 = 0x138;
/// Device-Specific Control Extension.
pub const DEVICE_SPECIFIC_CONTROL: u16 = 0x140;
/// Device-Specific Status Extension.
pub const DEVICE_SPECIFIC_STATUS: u16 = 0x148;
/// MSI Vector Register 0, 32 bits: Miscellaneous Information Register 0 of the capability block.
pub const MSI_VECTOR_0: u16 = 0x150;
/// MSI Vector Register 1, 32 bits: Miscellaneous Information Register 1 of the capability block.
pub const MSI_VECTOR_1: u16 = 0x154;
/// MSI Capability Header, 32 bits.
pub const MSI_CAPABILITY: u16 = 0x158;
/// MSI Address Low, 32 bits.
pub const MSI_ADDRESS_LOW: u16 = 0x15c;
/// MSI Address High, 32 bits.
pub const MSI_ADDRESS_HIGH: u16 = 0x160;
/// MSI Data, 32 bits.
pub const MSI_DATA: u16 = 0x164;
/// MSI Mapping Capability Header, 32 bits.
pub const MSI_MAPPING: u16 = 0x168;
/// Performance Optimization Control, 32 bits.
pub const PERFORMANCE_OPTIMIZATION: u16 = 0x16c;
/// XT IOMMU General Interrupt Control.
pub const XT_GENERAL_INTERRUPT: u16 = 0x170;
/// XT IOMMU PPR Interrupt Control.
pub const XT_PPR_INTERRUPT: u16 = 0x178;
/// XT IOMMU GA Log Interrupt Control.
pub const XT_GA_INTERRUPT: u16 = 0x180;
/// Extended Feature 2 (EFR2).
pub const EXTENDED_FEATURE_2: u16 = 0x1a0;
/// Command Buffer Head Pointer.
pub const COMMAND_HEAD: u16 = 0x2000;
/// Command Buffer Tail Pointer.
pub const COMMAND_TAIL: u16 = 0x2008;
/// Event Log Head Pointer.
pub const EVENT_HEAD: u16 = 0x2010;
/// Event Log Tail Pointer.
pub const EVENT_TAIL: u16 = 0x2018;
/// IOMMU Status.
pub const STATUS: u16 = 0x2020;
/// PPR Log Head Pointer.
pub const PPR_HEAD: u16 = 0x2030;
/// PPR Log Tail Pointer.
pub const PPR_TAIL: u16 = 0x2038;
/// Guest Virtual APIC Log Head Pointer.
pub const GA_HEAD: u16 = 0x2040;
/// Guest Virtual APIC Log Tail Pointer.
pub const GA_TAIL: u16 = 0x2048;
/// PPR Log Auto Response.
pub const PPR_AUTO_RESPONSE: u16 = 0x2080;
/// PPR Log Overflow Early Indicator.
pub const PPR_OVERFLOW_EARLY: u16 = 0x2088;
/// PPR Log B Overflow Early Indicator.
pub const PPR_OVERFLOW_EARLY_B: u16 = 0x2090;
