//! The capability block in the configuration space of the unit's PCI function (section 3.2).

use bitfield_struct::bitfield;

/// Capability Header (offset 0).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CapabilityHeader {
    /// CapId: 0Fh, secure device.
    #[bits(8, default = CapabilityHeader::ID)]
    pub id: u8,
    /// CapPtr: the next capability.
    pub next: u8,
    /// CapType, 3 bits: 3 for an IOMMU.
    #[bits(3, default = CapabilityHeader::TYPE)]
    pub kind: u8,
    /// CapRev, 5 bits: 1.
    #[bits(5, default = 1)]
    pub revision: u8,
    /// IotlbSup: the unit serves devices with a TLB of their own (ATS).
    pub iotlb: bool,
    /// HtTunnel: the unit translates HyperTransport tunnel traffic.
    pub ht_tunnel: bool,
    /// NpCache: not-present entries may be cached.
    pub np_cache: bool,
    /// EFRSup: the Extended Feature Register exists.
    pub extended_feature: bool,
    /// CapExt: Miscellaneous Information Register 1 exists.
    pub extended: bool,
    #[bits(3)]
    __: u8,
}

impl CapabilityHeader {
    /// The capability's identifier.
    pub const ID: u8 = 0x0f;
    /// The CapType of an IOMMU.
    pub const TYPE: u8 = 3;
}

/// Base Address Low Register (offset 4); Base Address High (offset 8) holds bits 63:32.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct BaseAddressLow {
    /// Enable: the register window is decoded. Once set, the address cannot be changed.
    pub enable: bool,
    #[bits(13)]
    __: u16,
    /// Bits 31:14 of the address of the register window. With performance counters, bits 18:14
    /// are 0.
    #[bits(18)]
    pub frame: u32,
}

impl BaseAddressLow {
    /// The lower 32 bits of the address.
    pub const fn address(self) -> u32 {
        self.frame() << 14
    }
}

/// Range Register (offset 12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceRange {
    /// UnitID, 5 bits: HyperTransport's.
    #[bits(5)]
    pub unit_id: u8,
    #[bits(2)]
    __: u8,
    /// RngValid: the other fields hold; software uses the IVRS table instead.
    pub valid: bool,
    /// The bus of the range.
    pub bus: u8,
    /// Its first device and function.
    pub first: u8,
    /// Its last device and function.
    pub last: u8,
}

/// Miscellaneous Information Registers 0 and 1 (offsets 16 and 20), in the register window MSI
/// Vector Registers 0 and 1.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Miscellaneous {
    /// MsiNum, 5 bits: the message for the event log and completion waits.
    #[bits(5)]
    pub event_message: u8,
    /// GVAsize, 3 bits: 2 for 48-bit guest virtual addresses.
    #[bits(3)]
    pub guest_virtual_size: u8,
    /// PAsize, 7 bits: width of physical addresses.
    #[bits(7)]
    pub physical_size: u8,
    /// VAsize, 7 bits: width of virtual addresses: 32, 40, 48 or 64.
    #[bits(7)]
    pub virtual_size: u8,
    /// HtAtsResv: the HyperTransport range for ATS responses is reserved.
    pub ht_ats_reserved: bool,
    #[bits(4)]
    __: u8,
    /// MsiNumPPR, 5 bits: the message for the PPR log.
    #[bits(5)]
    pub ppr_message: u8,
    /// MsiNumGA, 5 bits: the message for the GA log.
    #[bits(5)]
    pub ga_message: u8,
    #[bits(27)]
    __: u32,
}
